"""`registration.html`: what a person looks at before a registration is believed. One file, opens from disk."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from virtual_stain.config import Config
from virtual_stain.geometry import Points
from virtual_stain.pages import page_environment
from virtual_stain.registration.closeups import Closeup, worst_windows
from virtual_stain.registration.maps import draw_maps
from virtual_stain.registration.overlay import draw_overlay, jpeg
from virtual_stain.registration.raster import Rgb
from virtual_stain.registration.register import side_images
from virtual_stain.registration.result import FLAGS, Registration
from virtual_stain.registration.store import H5_NAME, JSON_NAME
from virtual_stain.registration.working import SideImage
from virtual_stain.reuse import MadeFrom, file_hashes, made_from
from virtual_stain.slides.slide import Slide
from virtual_stain.version import __version__

PAGE_NAME = "registration.html"
_PLACES = 400


def page_made_from(folder: Path, config: Config) -> MadeFrom:
    """What the page and the overlay in `folder` depend on: the registration there, with its slides' hashes."""
    settings = config.to_dict()
    return made_from(
        __name__,
        inputs={"registration": file_hashes(folder, (JSON_NAME, H5_NAME)), "name": folder.name},
        settings={section: settings[section] for section in ("registration", "tissue")},
    )


def draw_page(he: Slide, ihc: Slide, registration: Registration, name: str, config: Config) -> tuple[Rgb, str]:
    """(the overlay, the text of the page). Raises SlideError."""
    he_image, ihc_image = side_images(he, ihc, config.registration, config.tissue)
    overlay = draw_overlay(he_image, ihc_image, registration)
    sides = (("H&E", registration.he), ("IHC", registration.ihc))
    text = (
        environment()
        .get_template("registration.html")
        .render(
            name=name,
            verdict=verdict_word(registration),
            reason=registration.reason(),
            facts=_facts(registration),
            flags=[(flag, FLAGS[flag]) for flag in registration.flags],
            warnings=[(f"{stain}: warning", text) for stain, side in sides for text in side.warnings],
            overlay=data_url(jpeg(overlay), "jpeg"),
            maps=data_url(draw_maps(he_image, registration), "png"),
            closeups=[_closeup(c, registration) for c in worst_windows(he, ihc, registration, _tissue(he_image))],
            measured=len(registration.evidence.centres_px0) > 0,
            version=__version__,
        )
    )
    return overlay, text


def _tissue(side: SideImage) -> Points:
    """float64[N, 2] H&E level-0 px: places all over the tissue, the middle ones first."""
    inside = cv2.distanceTransform(np.pad(side.mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(side.mask)
    some = np.linspace(0, len(rows) - 1, min(len(rows), _PLACES)).astype(np.intp)
    rows, columns = rows[some], columns[some]
    order = np.argsort(-inside[rows, columns], kind="stable")
    return side.px0_from_ov.apply(np.stack([columns[order], rows[order]], axis=1) + 0.5)


def environment() -> jinja2.Environment:
    """The templates of the workflows; names of slides are somebody else's text and are escaped."""
    return page_environment("virtual_stain.workflows")


def verdict_word(registration: Registration) -> str:
    """The verdict, or "none" without pixel sizes."""
    return "none" if registration.verdict is None else registration.verdict.value


def data_url(data: bytes, kind: str) -> str:
    """A picture inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _facts(r: Registration) -> list[tuple[str, str]]:
    matrix = r.transform.ihc_from_he
    section = r.section_taken()
    finest = "" if r.finest_mpp is None else f", compared down to {r.finest_mpp:.2g} µm/px"
    return [
        ("H&E", f"{r.he.name}, {r.he.size.width} × {r.he.size.height} px, {r.he.mpp or 'no pixel size'}"),
        ("IHC", f"{r.ihc.name}, {r.ihc.size.width} × {r.ihc.size.height} px, {r.ihc.mpp or 'no pixel size'}"),
        ("stated error", f"median {_length(r, r.error_median_um, r.error_median_px0)}, "
                         f"p95 {_length(r, r.error_p95_um, r.error_p95_px0)}{finest}"),
        ("evidence", f"{r.consensus_fraction:.0%} of the held-out windows recognised; {_chance(r.chance_log10)}"),
        ("tissue in common", f"{r.overlap_fraction:.2f} (Dice); "
                             f"{r.bare_fraction:.0%} of the H&E tissue has no IHC tissue under it"),
        *([] if section is None else [("section", section)]),
        ("turn", f"{matrix.rotation_deg:.1f}°{', mirrored' if matrix.mirrored else ''}, "
                 f"scales {matrix.scales[0]:.4f} and {matrix.scales[1]:.4f} (IHC px per H&E px)"),
    ]  # fmt: skip


def _chance(log10: float) -> str:
    return "no more than by chance" if log10 > -1 else f"by chance 1 in 10^{-log10:.0f}"


def _length(r: Registration, um: float | None, px0: float | None) -> str:
    if um is not None:
        return f"{um:.1f} µm"
    return "unknown" if px0 is None else f"{px0:.1f} px of the H&E"


def _closeup(closeup: Closeup, r: Registration) -> dict[str, Any]:
    word = "px" if closeup.mpp is None else "µm"
    told = [f"{v:.1f} {word}" if math.isfinite(v) else "unknown" for v in (closeup.median, closeup.p95)]
    (x, y), picture = closeup.centre_px0, data_url(jpeg(closeup.picture), "jpeg")
    return {"x": x, "y": y, "mpp": closeup.mpp, "median": told[0], "p95": told[1], "picture": picture}
