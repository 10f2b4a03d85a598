"""What the markers of a JPEG stream say about its three components, whatever the container around it calls them."""

from __future__ import annotations

import struct

RGB, YCBCR = "RGB", "YCBCR"
_LETTERS = b"RGB"  # as component numbers, which libjpeg writes for colours that were not converted
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive


def declared_colour(jpeg: bytes) -> str | None:
    """RGB or YCBCR by the stream's own markers; None where it has no three components or does not say.

    Adobe's marker says it outright. JFIF is YCbCr, and so is what has coarser colour than brightness.
    """
    at, jfif, adobe = 2, False, None
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        code, (length,) = jpeg[at + 1], struct.unpack(">H", jpeg[at + 2 : at + 4])
        body = jpeg[at + 4 : at + 2 + length]
        if code == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = YCBCR if body[11] else RGB
        elif code in _FRAMES:
            return _of_frame(body, jfif, adobe) if len(body) >= 15 and body[5] == 3 else None
        at += 2 + length
    return None


def _of_frame(body: bytes, jfif: bool, adobe: str | None) -> str | None:
    if adobe is not None:
        return adobe
    if jfif or len({body[7 + 3 * i] for i in range(3)}) > 1:
        return YCBCR
    return RGB if bytes(body[6 + 3 * i] for i in range(3)) == _LETTERS else None
