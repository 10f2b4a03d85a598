"""Pixel size of a slide in µm/px: override, then the slide's own properties, then resolution tags; with its origin.

A wrong pixel size makes every later number wrong without a trace, so nothing is guessed. A value that cannot be a
microscope's pixel size is ignored with a note. Two sources that disagree are a warning. A stage that needs the pixel
size refuses a slide without one and says what to pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from virtual_stain.errors import ResolutionError
from virtual_stain.geometry import Size

READING_RANGE = (0.05, 2.0)
"""µm/px that the stages which read cells accept (tiles, counting, scoring)."""
REGISTRATION_RANGE = (0.05, 100.0)
"""µm/px that `register` and `warp` accept."""

_DISAGREEMENT_FRACTION = 0.02  # two sources further apart than this are reported
_ANISOTROPY_FRACTION = 0.05  # scanners differ by < 1 % between the axes
# What software writes into the tags when it knows nothing: print resolutions, never a scanner's.
_PRINT_DPI = (72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200)
_UM_PER_INCH = 25_400.0
_CM_PER_INCH = 2.54
_SUBJECT = "pixel size: "  # with which every warning about it begins
_SLIDE_MM = (76.0, 52.0)  # the largest glass slide that scanners take
_SLIDE_SLACK = 1.05  # scans reach a little beyond the glass
_SMALLEST_MM = 0.5  # of the longer side


@dataclass(frozen=True, slots=True)
class Mpp:
    """Pixel size in µm per level-0 pixel, the axes kept apart, and where it came from."""

    x: float
    y: float
    origin: str
    """"override", "openslide", "ome-xml", "imagej", "imaged-volume" (DICOM) or "tiff-tags"."""

    @property
    def mean(self) -> float:
        """Side of the square of the same area, µm."""
        return math.sqrt(self.x * self.y)

    @property
    def um2_per_px(self) -> float:
        return self.x * self.y

    def __str__(self) -> str:
        value = f"{self.x:.4g}" if self.x == self.y else f"{self.x:.4g} × {self.y:.4g}"
        return f"{value} µm/px ({self.origin})"


@dataclass(frozen=True, slots=True)
class MppClaim:
    """What one place in a file says about the pixel size; x or y may be missing or nonsense."""

    x: float | None
    y: float | None
    origin: str
    from_print_tags: bool = False
    """The value comes from TIFF resolution tags, where software leaves 72 or 300 dpi for want of knowledge."""
    unit_assumed: bool = False
    """The file names no unit. TIFF's rule says that inches are meant; not every writer knows it."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The result of `resolve_mpp`."""

    mpp: Mpp | None
    notes: tuple[str, ...]
    """Sentences: what was ignored and why."""
    warnings: tuple[str, ...]
    """Sentences: contradictions that a person should look at."""


class HasMpp(Protocol):
    """What `require_mpp` needs of a slide."""

    @property
    def path(self) -> Path: ...
    @property
    def mpp(self) -> Mpp | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


def what_is_odd(slide: HasMpp) -> str:
    """ " (…)" with what is said against the slide's pixel size, for a refusal; "" where nothing is."""
    odd = [text.removeprefix(_SUBJECT) for text in slide.warnings if text.startswith(_SUBJECT)]
    return f" ({'; '.join(odd)})" if odd else ""


def check_override(path: Path, override: tuple[float, float]) -> Mpp:
    """The user's value. Raises ResolutionError when it is NaN, zero, negative or absurd for any stage."""
    low, high = REGISTRATION_RANGE
    if not all(math.isfinite(v) and low <= v <= high for v in override):
        raise ResolutionError(
            f"{path}: expected a pixel size of {low} to {high} µm/px. Received: {override[0]:g}, {override[1]:g}",
            hint="Pass µm per level-0 pixel, e.g. --mpp 0.25, or --mpp 0.25,0.26 for x and y.",
        )
    return Mpp(float(override[0]), float(override[1]), "override")


def resolve_mpp(path: Path, override: tuple[float, float] | None, claims: Iterable[MppClaim]) -> Resolution:
    """The first usable of: override, then the claims in their order.

    Raises ResolutionError for an unusable override only; unusable claims become notes.
    """
    notes: list[str] = []
    warnings: list[str] = []
    known = [(mpp, claim) for claim in claims if (mpp := _usable(claim, notes, warnings)) is not None]
    usable = [mpp for mpp, _ in known]
    chosen = check_override(path, override) if override is not None else (usable[0] if usable else None)
    if override is None and known and known[0][1].unit_assumed:
        x = known[0][0].x
        warnings.append(
            "pixel size: the file names no unit for its resolution. By TIFF's rule these are inches, and pixels have "
            f"{x:.4g} µm; if centimetres are meant, they have {x / _CM_PER_INCH:.4g} µm. Pass the right one with --mpp."
        )
    if chosen is not None:
        for other in usable:
            apart = max(abs(other.x / chosen.x - 1), abs(other.y / chosen.y - 1))
            if other is not chosen and apart > _DISAGREEMENT_FRACTION:
                warnings.append(f"pixel size: {chosen} is used, but the file also says {other}: {apart:.0%} apart")
        if abs(chosen.x / chosen.y - 1) > _ANISOTROPY_FRACTION:
            warnings.append(f"pixel size: x and y differ by {abs(chosen.x / chosen.y - 1):.0%}: {chosen}")
    return Resolution(chosen, tuple(notes), tuple(warnings))


def of_resized(
    claims: Iterable[MppClaim], resized: tuple[Size, Size] | None
) -> tuple[tuple[MppClaim, ...], tuple[str, ...]]:
    """The claims of a slide that was made smaller (size before, after), as they hold for its pixels now, and a warning.

    Programs that shrink a slide keep the description of the original, its pixel size included.
    """
    listed = tuple(claims)
    known = next((c for c in listed if c.x is not None and c.y is not None and math.isfinite(c.x)), None)
    if resized is None or known is None or known.x is None:
        return listed, ()
    before, after = resized
    by_x, by_y = before.width / after.width, before.height / after.height
    scaled = tuple(
        replace(c, x=None if c.x is None else c.x * by_x, y=None if c.y is None else c.y * by_y) for c in listed
    )
    return scaled, (
        f"pixel size: the slide was resized from {before.width} × {before.height} to {after.width} × {after.height} "
        f"px, and its {known.x:.4g} µm/px is that of the original: {known.x * by_x:.4g} µm/px is used. "
        "If that is wrong, pass the right one with --mpp.",
    )


def doubts_of_extent(size: Size, mpp: Mpp | None, *, whole_slide: bool) -> tuple[str, ...]:
    """A warning where the scan would be larger than a glass slide, or of a whole slide smaller than any tissue."""
    if mpp is None:
        return ()
    width, height = size.width * mpp.x / 1000, size.height * mpp.y / 1000
    short, long = sorted((width, height))
    if long > _SLIDE_MM[0] * _SLIDE_SLACK or short > _SLIDE_MM[1] * _SLIDE_SLACK:
        reason = f"larger than a slide of {_SLIDE_MM[0]:g} × {_SLIDE_MM[1]:g} mm"
    elif whole_slide and long < _SMALLEST_MM:
        reason = f"smaller than {_SMALLEST_MM:g} mm"
    else:
        return ()
    return (
        f"pixel size: {mpp} is implausible: the scan would be {width:.3g} × {height:.3g} mm, {reason}. "
        "If the file is wrong, pass the right value with --mpp.",
    )


def _usable(claim: MppClaim, notes: list[str], warnings: list[str]) -> Mpp | None:
    x, y = claim.x, claim.y
    if x is None and y is None:
        return None
    if x is None or y is None:
        known = x if x is not None else y
        axis = "x" if x is not None else "y"
        warnings.append(f"pixel size: {claim.origin} gives only {axis}; {known:g} µm/px is used for both axes")
        x = y = known
    assert x is not None
    assert y is not None
    low, high = REGISTRATION_RANGE
    if not all(math.isfinite(v) and v > 0 for v in (x, y)):
        notes.append(f"{claim.origin} says {x:g}, {y:g} µm/px, which is no pixel size: ignored")
        return None
    dpi = _print_dpi(x)
    if claim.from_print_tags and dpi is not None and _print_dpi(y) == dpi:
        notes.append(f"{claim.origin} says {dpi} dpi, a print default and no pixel size: ignored")
        return None
    if not all(low <= v <= high for v in (x, y)):
        notes.append(f"{claim.origin} says {x:.4g}, {y:.4g} µm/px, outside {low} to {high}: ignored")
        return None
    return Mpp(float(x), float(y), claim.origin)


def _print_dpi(mpp: float) -> int | None:
    dpi = _UM_PER_INCH / mpp
    return next((d for d in _PRINT_DPI if abs(dpi / d - 1) < 1e-3), None)


def require_mpp(
    slide: HasMpp, allowed_range: tuple[float, float] = READING_RANGE, *, option: str = "--mpp 0.25"
) -> Mpp:
    """The slide's pixel size, or ResolutionError that names what is wrong and the option to pass."""
    low, high = allowed_range
    if slide.mpp is None:
        reason = f" ({'; '.join(slide.notes)})" if slide.notes else ""
        raise ResolutionError(
            f"{slide.path}: the slide carries no pixel size{reason}.",
            hint=f"State it in µm per level-0 pixel. For all given slides: {option}. For one of several: the column "
            "mpp of a table (pairs: he_mpp, ihc_mpp). In the browser: the field µm/px.",
        )
    if not (low <= slide.mpp.x <= high and low <= slide.mpp.y <= high):
        raise ResolutionError(
            f"{slide.path}: expected a pixel size of {low} to {high} µm/px here. "
            f"Received: {slide.mpp}{what_is_odd(slide)}",
            hint=f"If the file is wrong, pass the right value, e.g. {option}; "
            "if it is right, cells cannot be read at this pixel size.",
        )
    return slide.mpp


def um_per_px_from_tags(value: float, unit: str) -> float | None:
    """A TIFF resolution (px per "cm", "inch", "mm" or "µm") as µm/px; None for other units, NaN for nonsense."""
    scale = {"cm": 10_000.0, "inch": _UM_PER_INCH, "mm": 1000.0, "µm": 1.0}.get(unit)
    if scale is None:
        return None
    return scale / value if math.isfinite(value) and value > 0 else math.nan
