"""A scored DICOM slide as DICOM: a structured report with the readings, a segmentation with the tiles.

    <stem>.sr.dcm            Comprehensive 3D SR, template TID 1500: the readings of every marker in per cent
    <stem>.<marker>.seg.dcm  binary segmentation: one segment per class of the heat map, one pixel per tile

Both refer to the slide's full-resolution instance and carry its patient and study, as DICOM demands: they are patient
data like the slide itself. The report is complete but neither final nor verified: it is research. Needs the extra
`dicom` (highdicom).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ConfigError, InputError, VerificationError
from virtual_stain.files import read_json, sha256_file
from virtual_stain.her2 import NEEDS_ISH
from virtual_stain.installation import install_command
from virtual_stain.markers import Marker, ValueDefinition, parse_marker
from virtual_stain.report.colours import ColourScale
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.value_text import ValueText
from virtual_stain.version import __version__

_MAKER, _SCHEME = "virtual_stain", "99VSTAIN"
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
_READINGS = {
    "global_ratio": "mean weighted by {whole}",
    "global_mean": "mean of the tiles",
    "top_mean": "mean of the highest tiles",
}


@dataclass(frozen=True, slots=True)
class _Tile:
    col: int
    row: int
    value: float


@dataclass(frozen=True, slots=True)
class ScoredSlide:
    """What `vstain score` wrote about one slide, checked."""

    stem: str
    report: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]

    @property
    def markers(self) -> tuple[Marker, ...]:
        return tuple(parse_marker(name) for name in self.report["readings"])

    @property
    def shown(self) -> ValueText:
        """How its values are written; a report has one value definition for all markers."""
        return ValueText(ValueDefinition(next(iter(self.report["readings"].values()))["value_definition"]))

    def tiles(self, marker: Marker) -> list[_Tile]:
        """The tiles that carry a reading of the marker."""
        found = []
        for row in self.rows:
            if row.get(f"used_{marker.value}", row["used"]) == "1" and row[self.shown.column(marker)]:
                found.append(_Tile(int(row["col"]), int(row["row"]), float(row[self.shown.column(marker)])))
        return found


def require_highdicom() -> None:
    """Raises ConfigError with the way out where the extra is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise ConfigError(
            "DICOM output needs the package highdicom, which is not installed.",
            hint=install_command("dicom"),
        ) from None


def read_scored(path: Path) -> ScoredSlide:
    """Reads `<stem>.report.json` and the `<stem>.tiles.csv` beside it.

    Raises InputError (another file), VerificationError (the table is not the one that the report was written with).
    """
    report = read_json(path, "a report of `vstain score`")
    stem = path.name.removesuffix(".report.json")
    if not isinstance(report, dict) or report.get("schema_version") != 1 or "readings" not in report:
        raise InputError(f"{path}: expected <stem>.report.json of `vstain score`. Received another file.")
    table = path.with_name(f"{stem}.tiles.csv")
    listed = report.get("outputs", {}).get(table.name)
    if not isinstance(listed, dict) or listed.get("sha256") != sha256_file(table):
        raise VerificationError(
            f"{table}: expected the table that {path.name} was written with. Received another one.",
            hint="Score the slide again: vstain score SLIDE --model MODEL --force",
        )
    return ScoredSlide(stem, report, list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))))


def find_base_instance(source: Path, report: Mapping[str, Any]) -> Any:
    """The pydicom dataset (without pixels) of the slide's full-resolution instance, which may be another file of the
    series beside `source`. Raises InputError (no DICOM, not the slide of the report, no such instance)."""
    import pydicom

    slide = report["slide"]
    require_survivable(SlideRef(source))
    with open_slide(SlideRef(source)) as opened:
        if opened.content_hash() != slide["content_sha256"]:
            raise InputError(
                f"{source}: expected the slide of the report ({slide['path']}). Received one of other content.",
                hint="Name the very file that was scored.",
            )
    try:
        named = pydicom.dcmread(source, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError) as error:
        raise InputError(f"{source}: expected a DICOM slide. Received something else: {error}") from None
    wanted = (slide["width_px0"], slide["height_px0"])
    for path in [source, *sorted(p for p in source.parent.iterdir() if p.is_file() and p != source)]:
        try:
            found = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        size = (found.get("TotalPixelMatrixColumns"), found.get("TotalPixelMatrixRows"))
        if found.get("SeriesInstanceUID") == named.SeriesInstanceUID and size == wanted:
            return _with_empty_type_2(found)
    raise InputError(f"{source}: no instance of its series has {wanted[0]} × {wanted[1]} px, the report's level 0.")


def _with_empty_type_2(source: Any) -> Any:
    """The same dataset with the elements of patient and study that the standard demands but lets be empty (type 2).

    De-identified slides lack them, or hold them empty; what is not known is written empty, never invented.
    """
    for keyword in _TYPE_2:
        if source.get(keyword) in (None, ""):
            setattr(source, keyword, "")
    if "TotalPixelMatrixOriginSequence" not in source:
        _place_at_corner(source)
    return source


def _place_at_corner(source: Any) -> None:
    """Where on the glass the scan begins is not known: positions then count from its own first pixel."""
    from pydicom.dataset import Dataset

    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 0.0, 0.0
    source.TotalPixelMatrixOriginSequence = [origin]


def meaning_of(shown: ValueText, marker: Marker, reading: str) -> str:
    """The code meaning of a measurement; DICOM allows 64 characters."""
    whole = "tumour cells" if shown.definition.is_ratio else "tissue"
    return f"{shown.name(marker)} predicted from H&E, {_READINGS[reading].format(whole=whole)}"


def structured_report(scored: ScoredSlide, source: Any) -> Any:
    """A highdicom Comprehensive3DSR with one measurement group per marker; null readings are left out."""
    import highdicom as hd
    from highdicom import sr
    from pydicom.sr.codedict import codes

    model = scored.report["model"]
    algorithm = sr.AlgorithmIdentification(name=str(model["name"]), version=str(model["version"]))
    groups, name_of = [], scored.shown.name
    for marker in scored.markers:
        reading = scored.report["readings"][marker.value]
        measurements = [
            sr.Measurement(
                # a meaning has at most 64 characters
                name=sr.CodedConcept(
                    f"{scored.shown.column(marker)}-{name}",
                    _SCHEME,
                    meaning_of(scored.shown, marker, name),
                ),
                value=round(scored.shown.factor * reading[name], 4),
                unit=codes.UCUM.Percent
                if scored.shown.definition.is_ratio
                else sr.CodedConcept("/mm2", "UCUM", "/mm2"),
                algorithm_id=algorithm,
            )
            for name in _READINGS
            if reading[name] is not None
        ]
        label = f"{name_of(marker)}: tiles that carry a reading"
        measurements.append(
            sr.Measurement(
                name=sr.CodedConcept(f"{scored.shown.column(marker)}-n-tiles", _SCHEME, label),
                value=reading["n_tiles"],
                unit=codes.UCUM.NoUnits,
                algorithm_id=algorithm,
            )
        )
        tracking = sr.TrackingIdentifier(uid=hd.UID(), identifier=f"{name_of(marker)} predicted from H&E")
        score = (reading.get("her2") or {}).get("score")
        evaluations = []
        if score is not None:
            meaning = f"{score}: {NEEDS_ISH}" if score == "2+" else score
            evaluations.append(
                sr.QualitativeEvaluation(
                    name=sr.CodedConcept(f"{marker.value}-score", _SCHEME, f"{marker.label} score predicted from H&E"),
                    value=sr.CodedConcept(f"{marker.value}-{score}", _SCHEME, meaning),
                )
            )
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracking, measurements=measurements, qualitative_evaluations=evaluations or None
            )
        )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), manufacturer_name=_MAKER, model_name="vstain"
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return sr.Comprehensive3DSR(
        evidence=[source],
        content=content,
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=_MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def segmentation(scored: ScoredSlide, marker: Marker, source: Any) -> Any | None:
    """A highdicom Segmentation on the grid of the tiles; None when no tile carries a reading of the marker.

    A pixel is one step of the grid, its top-left corner that of the tile. The grid begins at the slide's bounds.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    tiles = scored.tiles(marker)
    if not tiles:
        return None
    mask, names, colours = _classes(scored, tiles)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=str(scored.report["model"]["name"]),
        family=codes.cid7162.ArtificialIntelligence,
        version=str(scored.report["model"]["version"]),
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            # the slide's character set may be Latin 1
            segment_label=f"{scored.shown.name(marker)} {name}".replace("–", "-"),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=hd.color.CIELabColor.from_rgb(*rgb),
        )
        for number, (name, rgb) in enumerate(zip(names, colours, strict=True), 1)
    ]
    spacing, position = _grid_place(scored.report, source)
    made = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name="vstain",
        software_versions=__version__,
        device_serial_number="none",
        pixel_measures=hd.PixelMeasuresSequence(pixel_spacing=spacing, slice_thickness=0.001),
        plane_orientation=hd.PlaneOrientationSequence("SLIDE", source.ImageOrientationSlide),
        plane_positions=[hd.PlanePositionSequence("SLIDE", position, pixel_matrix_position=(1, 1))],
        tile_pixel_array=True,
        tile_size=(64, 64),
        omit_empty_frames=False,
    )
    made.PatientOrientation = ""  # a section on glass has none; the element must be there all the same
    return made


def _classes(
    scored: ScoredSlide, tiles: list[_Tile]
) -> tuple[npt.NDArray[np.uint8], list[str], list[tuple[int, int, int]]]:
    """uint8[1, rows, columns, classes] 0/1, and the classes that occur, ascending, named and coloured as in QuPath."""
    scale = ColourScale(scored.shown)
    found: dict[str, tuple[int, int, int]] = {}
    for tile in sorted(tiles, key=lambda t: t.value):
        name, rgb = scale.class_of(tile.value)
        found.setdefault(name, rgb)
    names = list(found)
    grid = scored.report["tiles"]
    mask = np.zeros((1, grid["rows"], grid["columns"], len(names)), np.uint8)
    for tile in tiles:
        mask[0, tile.row, tile.col, names.index(scale.class_of(tile.value)[0])] = 1
    return mask, names, list(found.values())


def _grid_place(report: Mapping[str, Any], source: Any) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Pixel spacing (between rows, between columns; mm) and the slide position (mm) of the first pixel's centre."""
    import highdicom as hd

    origin = source.TotalPixelMatrixOriginSequence[0]
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    fine = (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1]))
    to_slide = hd.spatial.ImageToReferenceTransformer(
        image_position=(
            float(origin.XOffsetInSlideCoordinateSystem),
            float(origin.YOffsetInSlideCoordinateSystem),
            float(origin.get("ZOffsetInSlideCoordinateSystem", 0.0)),
        ),
        image_orientation=source.ImageOrientationSlide,
        pixel_spacing=fine,
    )
    slide, step_um = report["slide"], report["tiles"]["stride_um"]
    step_px0 = (step_um / slide["mpp_x"], step_um / slide["mpp_y"])
    corner = slide["bounds_px0"]
    centre = to_slide(np.array([[corner[0] + step_px0[0] / 2, corner[1] + step_px0[1] / 2]]))[0]
    # by the source's own spacing, not by a pixel size that was given by hand: the pixels must lie on the slide's
    return (step_px0[1] * fine[0], step_px0[0] * fine[1]), (float(centre[0]), float(centre[1]), float(centre[2]))
