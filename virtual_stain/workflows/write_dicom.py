"""`vstain dicom`: a report of a DICOM slide as DICOM structured report and segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virtual_stain.errors import OutputError
from virtual_stain.files import folder_lock, replacing
from virtual_stain.provenance import RunRecord, refuse_foreign_run
from virtual_stain.report import dicom


def write_dicom(report: Path, source: Path, out: Path, *, force: bool = False) -> list[Path]:
    """Writes `<stem>.sr.dcm` and `<stem>.<marker>.seg.dcm`; returns the files.

    Raises ConfigError (extra missing), InputError, VerificationError, OutputError.
    """
    dicom.require_highdicom()
    scored = dicom.read_scored(report)
    base = dicom.find_base_instance(source, scored.report)
    objects: dict[str, Any] = {f"{scored.stem}.sr.dcm": dicom.structured_report(scored, base)}
    for marker in scored.markers:
        found = dicom.segmentation(scored, marker, base)
        if found is not None:
            objects[f"{scored.stem}.{marker.value}.seg.dcm"] = found
    with folder_lock(out):
        refuse_foreign_run(out, "dicom")
        there = [name for name in objects if (out / name).exists()]
        if there and not force:
            raise OutputError(f"{out / there[0]}: exists already.", hint="Replace it with --force.")
        for name, value in objects.items():
            with replacing(out / name) as temporary:
                value.save_as(temporary)
        record = RunRecord("dicom", extra={"report": str(report), "source": str(source)})
        record.write(out)
    return [out / name for name in objects]
