"""Whether the JPEG frames of a DICOM slide mean other colours than its header says.

Some converters copy JPEG frames in YCbCr from another format and call them RGB. A reader that believes the header shows
pink glass and a tissue of other colours, without a word.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import cv2
import numpy as np

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
    return _NOTE if _is_ycbcr(_first_frame(path)) else None


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


def _is_ycbcr(jpeg: bytes) -> bool:
    """By its own markers: JFIF is YCbCr, and so is what has coarser colour than brightness; Adobe's 0 is RGB."""
    at, jfif = 2, False
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        code, (length,) = jpeg[at + 1], struct.unpack(">H", jpeg[at + 2 : at + 4])
        body = jpeg[at + 4 : at + 2 + length]
        if code == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            return body[11] != 0
        elif code == 0xC0 and len(body) >= 15 and body[5] == 3:
            sampled = {body[7 + 3 * i] for i in range(3)}
            return jfif or len(sampled) > 1
        at += 2 + length
    return False
