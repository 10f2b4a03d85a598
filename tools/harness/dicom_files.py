"""A small DICOM slide, and DICOM files with one value replaced by a hostile one."""

from __future__ import annotations

import io
import random
import re
import struct
from pathlib import Path
from typing import Any

_ELEMENT = re.compile(rb"(?s)..(?:..)(US|UL|DS|IS|CS|UI|FD|SQ|OB)")
_TEXTS = (
    b"0",
    b"-1",
    b"nan",
    b"1e308",
    b"9" * 64,
    b"",
    b"../x",
    b"YBR_FULL",
    b"MONOCHROME1",
    b"TILED_SPARSE",
    b"LABEL",
)


def write_dicom_slide(path: Path, picture: Any, mpp: float, tile: int = 128) -> None:
    """One level of a VL Whole Slide Microscopy image in JPEG tiles. `picture`: uint8[H, W, 3] RGB, whole tiles."""
    from PIL import Image
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    height, width = picture.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4.1"
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = "1.2.3.4.2", "1.2.3.4.3", "SM"
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.Rows = data.Columns = tile
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = height, width
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    data.SamplesPerPixel, data.PlanarConfiguration, data.PhotometricInterpretation = 3, 0, "YBR_FULL_422"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.DimensionOrganizationType, data.TotalPixelMatrixFocalPlanes = "TILED_FULL", 1
    measures, groups, optical = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    groups.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [groups]
    optical.OpticalPathIdentifier = "1"
    data.OpticalPathSequence, data.NumberOfOpticalPaths = [optical], 1
    frames = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            stream = io.BytesIO()
            Image.fromarray(picture[top : top + tile, left : left + tile]).save(stream, "JPEG", quality=85)
            frames.append(stream.getvalue())
    data.NumberOfFrames = len(frames)
    data.PixelData = encapsulate(frames)
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)


def changed_dicom(data: bytes, rng: random.Random) -> bytes:
    """One element of the header has a hostile value, length or kind; its other bytes stay where they are."""
    found = list(_ELEMENT.finditer(data))
    if not found:
        return data
    element = rng.choice(found)
    kind, at = element[1], element.end()
    changed = bytearray(data)
    if kind in (b"SQ", b"OB") or rng.random() < 0.15:  # a length that is none
        struct.pack_into("<H", changed, min(at, len(data) - 2), rng.choice((0, 1, 0xFFFE, 0xFFFF)))
        return bytes(changed)
    (length,) = struct.unpack_from("<H", data, min(at, len(data) - 2))
    value = {
        b"US": lambda: struct.pack("<H", rng.choice((0, 1, 3, 127, 0x7FFF, 0xFFFF))),
        b"UL": lambda: struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF))),
        b"FD": lambda: struct.pack("<d", rng.choice((0.0, -1.0, 1e308, float("nan")))),
    }.get(kind, lambda: rng.choice(_TEXTS))()
    changed[at + 2 : at + 2 + length] = value[:length].ljust(length, b" " if kind != b"UI" else b"\0")
    return bytes(changed)
