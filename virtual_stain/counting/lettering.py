"""Text on pictures, in any script that Matplotlib's own font has: OpenCV's fonts know ASCII alone."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

U8 = npt.NDArray[np.uint8]

INK = (30, 30, 30)


@functools.cache
def _font(px: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), px)


def text_width(text: str, px: int) -> int:
    """Width in px of `text` in letters of `px`."""
    return round(_font(px).getlength(text))


def put_text(image: U8, text: str, at: tuple[float, float], px: int, colour: tuple[int, int, int] = INK) -> None:
    """Writes on uint8[H, W, 3] RGB in place; `at`: left end of the base line, px; `px`: size of the letters."""
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(at, text, fill=colour, font=_font(px), anchor="ls")
    image[:] = np.asarray(picture)


def shortened(text: str, px: int, width: int) -> str:
    """`text` where it fits into `width` px, else its beginning and an ellipsis."""
    if text_width(text, px) <= width:
        return text
    while text and text_width(text + "…", px) > width:
        text = text[:-1]
    return text + "…"
