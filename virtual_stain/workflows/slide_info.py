"""`vstain info`: what a slide is, where its pixel size comes from, how much tissue it carries, or why it is no use."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from virtual_stain.config.tissue import TissueSettings
from virtual_stain.errors import BatchError, InputError, OutputError
from virtual_stain.files import make_folder, write_bytes, write_text
from virtual_stain.geometry import Box
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.resolution import REGISTRATION_RANGE, require_mpp
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.spots import Spot, find_spots
from virtual_stain.slides.tissue import TissueMap, examined, find_tissue, require_tissue

_UNKNOWN_RGB, _REMOVED_RGB = (120, 60, 150), (255, 140, 0)


@dataclass(slots=True)
class SlideReport:
    """What was found out about one file."""

    path: Path
    facts: list[tuple[str, str]] = field(default_factory=list)
    """(name, value) in the order of the print."""
    problems: list[str] = field(default_factory=list)
    """Why the slide cannot be used as it is, and the way out; empty: it can."""
    files: list[Path] = field(default_factory=list)
    """Pictures written."""

    def text(self) -> str:
        lines = [str(self.path)]
        lines += [f"  {name:<11} {value}" for name, value in self.facts]
        lines += [f"  PROBLEM     {text.replace(chr(10), chr(10) + ' ' * 12)}" for text in self.problems]
        lines += [f"  {'wrote':<11} {path}" for path in self.files]
        return "\n".join(lines)


def describe_slides(refs: Sequence[SlideRef], settings: TissueSettings, out: Path | None) -> Iterator[SlideReport]:
    """One report a slide, as soon as it is known; with `out`, pictures and run.json are written there.

    Raises OutputError; whatever is wrong with a slide stands in its report.
    """
    if out is not None:
        make_folder(out)
    stems = _distinct_stems(refs)
    if out is not None:
        refuse_foreign_run(out, "info")
    record = RunRecord("info", inputs={str(ref.path): "not hashed" for ref in refs})
    for ref, stem in zip(refs, stems, strict=True):
        report = describe_slide(ref, settings, None if out is None else out / stem)
        record.outcomes.append(Outcome(str(ref.path), not report.problems, " ".join(report.problems)))
        yield report
    if out is not None:
        record.write(out)


def raise_on_problems(reports: Sequence[SlideReport]) -> None:
    """InputError when the only slide is unusable, BatchError when some of several are; nothing when all are fine."""
    failed = [report for report in reports if report.problems]
    if failed and len(reports) == 1:
        raise InputError(f"{failed[0].path}: cannot be used as it is; the reason stands above.")
    if failed:
        names = ", ".join(report.path.name for report in failed)
        raise BatchError(f"{len(failed)} of {len(reports)} slides cannot be used as they are: {names}.")


def describe_slide(ref: SlideRef, settings: TissueSettings, target: Path | None = None) -> SlideReport:
    """Facts and problems of one slide; with `target`, `target`.overview.jpg and `target`.tissue.jpg.

    Raises OutputError only.
    """
    report = SlideReport(ref.path)
    try:
        require_survivable(ref)
        with open_slide(ref) as slide:
            _add_slide_facts(report, slide)
            tissue = examined(slide, find_tissue(slide, settings))
            _add_tissue_facts(report, slide, tissue)
            spots = () if slide.mpp is None else find_spots(tissue, slide.mpp)
            _add_spots(report, spots)
            if target is not None:
                report.files += _write_pictures(target, tissue)
                report.files += _write_spots(target, spots)
    except OutputError:
        raise
    except InputError as error:
        report.problems.append(str(error).removeprefix(f"{ref.path}: "))
    return report


def _add_slide_facts(report: SlideReport, slide: Slide) -> None:
    size, bounds, mpp = slide.size, slide.bounds, slide.mpp
    extent = "" if mpp is None else f" ({size.width * mpp.x / 1000:.2f} × {size.height * mpp.y / 1000:.2f} mm)"
    report.facts.append(("format", slide.format))
    report.facts.append(("size", f"{size.width} × {size.height} px{extent}"))
    if bounds != Box(0, 0, size.width, size.height):
        area = f"{bounds.width:.0f} × {bounds.height:.0f} px at x={bounds.x:.0f} y={bounds.y:.0f}"
        report.facts.append(("scanned", area))
    levels = ", ".join(
        f"{level.width} × {level.height} (1:{downsample:g})"
        for level, downsample in zip(slide.level_sizes, slide.level_downsamples, strict=True)
    )
    report.facts.append(("levels", f"{slide.level_count}: {levels}"))
    report.facts.append(("pixel size", "unknown" if mpp is None else str(mpp)))
    report.facts += [("note", text) for text in slide.notes]
    report.facts += [("warning", text) for text in slide.warnings]
    try:
        require_mpp(slide)
    except InputError as error:
        if mpp is not None and mpp.x <= REGISTRATION_RANGE[1] and mpp.y <= REGISTRATION_RANGE[1]:
            report.facts.append(("warning", "too coarse for reading cells: vstain register and warp only"))
        else:
            report.problems.append(str(error).removeprefix(f"{slide.path}: "))


def _add_tissue_facts(report: SlideReport, slide: Slide, tissue: TissueMap) -> None:
    try:
        require_tissue(slide.path, tissue)
    except InputError as error:
        report.facts.append(("tissue", "none"))
        left_out = _left_out(slide, tissue)
        if left_out:
            report.facts.append(("left out", left_out))
        report.problems.append(str(error).removeprefix(f"{slide.path}: "))
        return
    share = f"{tissue.mask.mean():.0%} of the scan"
    area = "" if slide.mpp is None else f"{tissue.area_um2(slide.mpp) / 1e6:.2f} mm², "
    report.facts.append(("tissue", area + share))
    left_out = _left_out(slide, tissue)
    if left_out:
        report.facts.append(("left out", left_out))
    report.facts += [("warning", text) for text in tissue.warnings]


def _add_spots(report: SlideReport, spots: Sequence[Spot]) -> None:
    if not spots:
        return
    rows, columns = max(s.row for s in spots), max(s.column for s in spots)
    report.facts.append(("spots", f"{len(spots)} of a tissue micro-array of {rows} rows and {columns} columns"))
    for row in range(1, rows + 1):
        listed = ", ".join(f"{s.column} ({s.tissue_um2 / 1e6:.2f} mm²)" for s in spots if s.row == row)
        report.facts.append((f"row {row}", f"columns {listed}"))


def _write_spots(target: Path, spots: Sequence[Spot]) -> list[Path]:
    """`target`.spots.csv where there are any."""
    if not spots:
        return []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "x", "y", "diameter_um", "tissue_mm2"])
    for s in spots:
        x, y = s.centre_px0
        writer.writerow([s.row, s.column, f"{x:.1f}", f"{y:.1f}", f"{s.diameter_um:.1f}", f"{s.tissue_um2 / 1e6:.4f}"])
    path = target.with_name(target.name + ".spots.csv")
    write_text(path, text.getvalue())
    return [path]


def _left_out(slide: Slide, tissue: TissueMap) -> str:
    """What is stained and not counted as tissue; "" where that is nothing."""
    if tissue.removed is None or not tissue.removed.any():
        return ""
    area = "" if slide.mpp is None else f"{tissue.removed_um2(slide.mpp) / 1e6:.3g} mm² of "
    return f"{area}stained pieces that are too small or thin lines at the edge (orange in the mask picture)"


def _write_pictures(target: Path, tissue: TissueMap) -> list[Path]:
    pictures = {".overview.jpg": tissue.overview, ".tissue.jpg": draw_tissue(tissue)}
    written = []
    for suffix, image in pictures.items():
        path = target.with_name(target.name + suffix)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
        write_bytes(path, data.tobytes())
        written.append(path)
    return written


def draw_tissue(tissue: TissueMap) -> Rgb:
    """uint8[H, W, 3]: tissue in its colours inside a green line, the rest darkened; what no camera took violet, stained
    pieces that are left out orange."""
    mask = tissue.mask
    picture = tissue.overview.copy()
    picture[~mask] = (picture[~mask] * 0.45 + np.array([0, 15, 45])).astype(np.uint8)
    for part, colour in ((tissue.unknown, _UNKNOWN_RGB), (tissue.removed, _REMOVED_RGB)):
        if part is not None:
            picture[part] = colour
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(mask.shape) / 1000))
    return np.asarray(cv2.drawContours(picture, outlines, -1, (0, 220, 0), width), np.uint8)


def _distinct_stems(refs: Iterable[SlideRef]) -> list[str]:
    """File names for the pictures; the second slide of one stem is called `<stem>-2`."""
    seen: Counter[str] = Counter()
    stems = []
    for ref in refs:
        seen[ref.stem] += 1
        stems.append(ref.stem if seen[ref.stem] == 1 else f"{ref.stem}-{seen[ref.stem]}")
    return stems
