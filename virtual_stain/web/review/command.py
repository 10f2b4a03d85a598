"""What `vstain review` does: the page, or one errand about verdicts."""

from __future__ import annotations

import dataclasses
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from virtual_stain.config import WebSettings
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.files import make_folder, write_text
from virtual_stain.tables import BYTE_ORDER_MARK, read_text
from virtual_stain.web.problem import ApiError
from virtual_stain.web.review.app import open_desk, review_app
from virtual_stain.web.review.desk import ReviewDesk
from virtual_stain.web.review.exchange import export_csv, export_geojson, parse_import
from virtual_stain.web.server import access_of, listen, run, url_of


def serve_review(
    folder: Path,
    settings: WebSettings,
    *,
    port: int | None,
    reviewer: str,
    browser: bool,
    say: Callable[[str], None],
) -> None:
    """Serves the page until Ctrl-C. Raises ConfigError, InputError, OutputError before."""
    if port is not None:
        settings = dataclasses.replace(settings, port=port)
    access = access_of(settings)
    desk = open_desk(folder)
    if not desk.folder.pairs():
        raise InputError(
            f"{folder}: no pair has tiles to review yet.", hint="vstain build-records builds them; then review."
        )
    sock = listen(settings)
    say(f"Review {folder} at {url_of(sock)} (Ctrl-C ends it; verdicts are saved as they are made)")
    if browser:
        webbrowser.open(url_of(sock))
    run(review_app(desk, access, settings, reviewer), sock, settings.root_path)


def exchange(
    folder: Path, *, export: Path | None, take: Path | None, reviewer: str | None, agreement: bool, excel: bool = False
) -> Iterator[str]:
    """Import first, then export, then agreement; lines for people.

    `excel`: an exported table begins with a byte order mark. Raises InputError, ConfigError, OutputError.
    """
    desk = open_desk(folder)
    if take is not None:
        yield _import(desk, take, reviewer)
    if export is not None:
        yield from _export(desk, export, excel=excel)
    if agreement:
        yield from _agreement(desk)


def _import(desk: ReviewDesk, path: Path, reviewer: str | None) -> str:
    kinds = {".csv": "csv", ".geojson": "geojson", ".json": "geojson"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path}: expected .csv or .geojson. Received: {path.suffix or 'no suffix'}")
    try:
        text = read_text(path, "the verdicts")
        verdicts = parse_import(desk, kind, text, reviewer)
        imported, repeated, stale = desk.take_in(verdicts, kind)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, ApiError) as error:
        raise InputError(f"{path}: {error}") from None
    return f"{imported} verdicts imported, {repeated} were there already; {stale} are stale and not applied."


def _export(desk: ReviewDesk, target: Path, *, excel: bool) -> Iterator[str]:
    if target.suffix.lower() == ".csv":
        write_text(target, (BYTE_ORDER_MARK if excel else "") + export_csv(desk))
        yield f"{target}"
        return
    make_folder(target)
    for pair in desk.folder.pairs():
        path = target / f"{pair.name}.review.geojson"
        write_text(path, export_geojson(desk, pair))
        yield f"{path}"


def _agreement(desk: ReviewDesk) -> Iterator[str]:
    found = desk.agreement()
    if not found:
        yield "No two readers have decided on the same tile yet."
    for a in found:
        kappa = "not defined" if a.kappa is None else f"{a.kappa:.2f}"
        line = f"{a.first} – {a.second}: {a.n_shared} shared, {a.n_equal} equal, Cohen's kappa {kappa}"
        if a.mean_difference is not None:
            line += f"; ratio {a.mean_difference * 100:+.1f} points on {a.n_ratios} tiles"
        if a.limits_of_agreement is not None:
            low, high = (v * 100 for v in a.limits_of_agreement)
            line += f" (limits of agreement {low:+.1f} to {high:+.1f})"
        yield line
