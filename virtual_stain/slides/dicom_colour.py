"""Whether the JPEG frames of a DICOM slide mean other colours than its header says.

Some converters copy JPEG frames in YCbCr from another format and call them RGB. A reader that believes the header shows
pink glass and a tissue of other colours, without a word.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import cv2
import numpy as np

from virtual_stain.slides.jpeg_colour import YCBCR, declared_colour
from virtual_stain.slides.source import Rgb

_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_PIXEL_DATA = b"\xe0\x7f\x10\x00OB"
_START = b"\xff\xd8\xff"
_HEADER_BYTES = 64 << 10
_NOTE = "its frames are YCbCr, though its header says RGB: their colours are converted"


def ycbcr_called_rgb(path: Path, properties: dict[str, str]) -> str | None:
    """A note where the frames of this DICOM file must be converted; None where its header is right. Raises OSError."""
    if properties.get("dicom.PhotometricInterpretation") != "RGB":
        return None
    if properties.get("dicom.TransferSyntaxUID") != _JPEG_BASELINE:
        return None
    return _NOTE if declared_colour(_first_frame(path)) == YCBCR else None


def from_ycbcr(image: Rgb) -> Rgb:
    """RGB of an image uint8[H, W, 3] whose channels are Y, Cb and Cr of full range (JFIF)."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB), np.uint8)


def _first_frame(path: Path) -> bytes:
    """The beginning of the first JPEG in the pixel data; b"" without one."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_PIXEL_DATA)
        if at < 0:
            return b""
        start = data.find(_START, at, at + _HEADER_BYTES + (8 << 20))  # behind the table of offsets
        return b"" if start < 0 else bytes(data[start : start + _HEADER_BYTES])
