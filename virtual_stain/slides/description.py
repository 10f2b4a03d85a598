"""What a file says about itself, looked at before any reader is chosen: its pages, what each one is, how its samples
are meant, which tiles were never written, and every statement about the pixel size.

OpenSlide opens many TIFF files without asking what their samples mean, and plain images have a reader of their own.
Both are held to the same description, and so are `info` and the refusals. Only TIFF files of any flavour have one;
other formats are described by their reader alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.slides.resolution import MppClaim
from virtual_stain.slides.virtual_mark import VIRTUAL_SENTENCE

SLIDE, LEVEL, LABEL, MACRO, THUMBNAIL = "slide", "level", "label", "macro", "thumbnail"
_BESIDE = (LABEL, MACRO)
_SCENE_FRACTION = 0.1  # of the slide's area: thumbnails and labels are smaller
_LEVEL_ASPECT_FRACTION = 0.2  # levels that are filled up to whole tiles differ from the slide by this
_SAME_SCALE_FRACTION = 0.02  # levels differ by far more
_COLOUR = ("RGB", "YCBCR")
_GREY = ("MINISBLACK", "MINISWHITE")
_MAX_TILE_SIDE = 4096
_CONVERT = "Convert it to an 8-bit RGB image or a tiled pyramidal TIFF."


@dataclass(frozen=True, slots=True)
class TileTable:
    """Which tiles or strips of a page were never written."""

    tile: Size
    """px of the page."""
    missing: npt.NDArray[np.bool_]
    """bool[rows, columns]."""

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.missing))


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One image of the file."""

    index: int
    size: Size
    tile: Size | None
    """None: strips."""
    kind: str
    """SLIDE, LEVEL, LABEL, MACRO or THUMBNAIL, by what the page says of itself."""
    photometric: str
    """TIFF's name: "RGB", "YCBCR", "MINISBLACK" (grey), "PALETTE" …"""
    dtype: str
    """Of a sample: "uint8", "uint16" …"""
    samples: int
    extra: tuple[int, ...]
    """Meaning of the samples beyond colour: 0 none, 1 and 2 opacity."""
    orientation: int
    um_per_px: tuple[float, float] | None
    """By its own resolution tags, whatever they are worth."""
    table: TileTable
    jpeg: bool = False
    """Whether its tiles or strips are JPEG."""
    stream_colour: str | None = None
    """"RGB" or "YCBCR" by the markers of its first JPEG tile; None: they do not say."""
    largest_value: int | None = None
    """Of some of its pixels, where samples have more than 8 bits."""

    @property
    def opacity(self) -> bool:
        """Whether a fourth sample says how opaque a pixel is."""
        return bool(self.extra) and self.extra[0] in (1, 2)

    @property
    def mislabelled(self) -> bool:
        """Whether the directory and the JPEG tiles disagree on what the samples mean."""
        return self.stream_colour not in (None, self.photometric) and self.photometric in _COLOUR


@dataclass(frozen=True, slots=True)
class FileDescription:
    """Of one TIFF file."""

    path: Path
    pages: tuple[Page, ...]
    claims: tuple[MppClaim, ...]
    """About the pixel size of the slide's page, OME-XML before the tags."""
    remarks: tuple[str, ...] = ()
    """Sentences about statements that say nothing."""
    described_size: Size | None = None
    """Where the slide's description (Aperio, OME-XML) tells of a picture of another size, without saying why."""
    aperio_resized: tuple[Size, Size] | None = None
    """Size before and after, where an Aperio description tells that the slide was made smaller."""
    virtual: bool = False
    """Whether it says that its picture is a prediction (`virtual_mark`)."""

    @property
    def slide_page(self) -> Page:
        """The largest page that is no label or macro, whatever stands first; the first of several."""
        named = [page for page in self.pages if page.kind not in _BESIDE] or list(self.pages)
        return max(named, key=lambda page: page.size.area)

    def page_of(self, size: Size) -> Page | None:
        """The first page of that size that is no label or macro."""
        return next((p for p in self.pages if p.size == size and p.kind not in _BESIDE), None)

    def notes(self, page: Page) -> tuple[str, ...]:
        """Sentences about what was chosen, for people."""
        notes = []
        if page.index > 0:
            first = self.pages[0]
            what = "smaller one" if first.kind in (SLIDE, LEVEL) else first.kind
            notes.append(
                f"page {page.index} of {page.size.width} × {page.size.height} px is the slide; page 0 of "
                f"{first.size.width} × {first.size.height} px is a {what}"
            )
        same = sum(p.size == page.size for p in self.pages)
        if same > 1:
            notes.append(f"{same} pages have the size of the slide (focus planes, channels?): the first is read")
        if page.samples == 4 and not page.opacity:
            notes.append("its fourth sample has no stated meaning (ExtraSamples 0): it is left out")
        if page.mislabelled:
            notes.append(
                f"its directory says {page.photometric}, its JPEG tiles say {page.stream_colour}: the tiles are right"
            )
        return tuple(notes) + self.remarks

    def warnings(self, page: Page, levels: tuple[Size, ...] | None = ()) -> tuple[str, ...]:
        """Sentences about what is missing, left out, or contradicts the rest.

        `levels`: sizes of those that are read; None where a scanner's rules say what every page is.
        """
        table, found = page.table, []
        if self.virtual:
            found.append(f"virtual slide: {VIRTUAL_SENTENCE}")
        if table.count:
            total = table.missing.size
            found.append(
                f"pixels: {table.count} of {total} {'tiles' if page.tile else 'strips'} of the slide were never "
                f"written (missing tiles, {table.count / total:.0%}): they count neither as glass nor as tissue"
            )
        others = [] if levels is None else [o for o in self.pages if o.size not in levels and _another_picture(page, o)]
        if others:
            listed = ", ".join(f"page {o.index} of {o.size.width} × {o.size.height} px" for o in others[:4])
            found.append(
                f"pages: only page {page.index} of {page.size.width} × {page.size.height} px is read. Also there, and "
                f"none of its levels (other scenes?): {listed}"
            )
        if self.described_size is not None:
            told = self.described_size
            found.append(
                f"pixel size: its description tells of {told.width} × {told.height} px, and it has {page.size.width} × "
                f"{page.size.height} px. If it was resized, its pixel size is that of the original: pass the right one "
                "with --mpp."
            )
        return tuple(found)


def _another_picture(slide: Page, other: Page) -> bool:
    """Whether a page may be a scan of its own: large, and not the slide made smaller."""
    if other.index == slide.index or other.kind in (*_BESIDE, THUMBNAIL) or other.size == slide.size:
        return False
    if other.size.area <= _SCENE_FRACTION * slide.size.area:
        return False
    ratio = other.size.width * slide.size.height / (other.size.height * slide.size.width)
    return abs(ratio - 1) > _LEVEL_ASPECT_FRACTION or (other.kind == SLIDE and _same_scale(slide, other))


def _same_scale(slide: Page, other: Page) -> bool:
    """Whether both state one pixel size, so that neither is the other made smaller."""
    if slide.um_per_px is None or other.um_per_px is None:
        return False
    return all(abs(a / b - 1) < _SAME_SCALE_FRACTION for a, b in zip(slide.um_per_px, other.um_per_px, strict=True))


def require_tile_size(description: FileDescription) -> None:
    """Raises SlideError for tiles that no scanner writes: every window would cost the decoding of a whole one.

    A tile of a gigabyte takes a megabyte in the file. Impossible sizes make libraries abort.
    """
    for page in description.pages:
        tile = page.tile
        if tile is not None and tile.area > _MAX_TILE_SIDE**2:
            raise SlideError(
                f"{description.path}: expected tiles of at most {_MAX_TILE_SIDE} × {_MAX_TILE_SIDE} px. Received: "
                f"{tile.width} × {tile.height} px (page {page.index}).",
                hint="Write it with smaller tiles: vips tiffsave IN OUT.tif --tile --tile-width 512 --tile-height 512 "
                "--pyramid --compression jpeg --Q 90",
            )


def require_colour(path: Path, page: Page) -> None:
    """Raises SlideError for a page whose samples are no 8-bit colours, or which is stored turned or mirrored."""
    expected = f"{path}: expected an 8-bit RGB image."
    which = f"page {page.index}, {page.size.width} × {page.size.height} px"
    if page.photometric not in _COLOUR:
        raise SlideError(f"{expected} Received: TIFF of {_meaning(page)} ({which}).", hint=_CONVERT)
    if page.dtype != "uint8":
        raise SlideError(
            f"{expected} Received: TIFF of {page.dtype} with {page.samples} channel(s){_range(page)} ({which}).",
            hint="Scale its values to 0–255 and write 8 bits a sample: how bright white is only its maker knows.",
        )
    if page.samples not in (3, 4):
        raise SlideError(f"{expected} Received: TIFF with {page.samples} channels ({which}).", hint=_CONVERT)
    if page.orientation not in (0, 1):
        raise SlideError(
            f"{path}: expected pixels stored upright (TIFF orientation 1). Received: orientation {page.orientation} "
            f"({which}): readers differ in whether they turn it, and positions would not be where a viewer shows them.",
            hint="Write the file again with the pixels turned (vips autorot), or set its Orientation tag to 1.",
        )


def require_one_meaning(path: Path, page: Page) -> None:
    """Raises SlideError where the directory of a scanner's file and its JPEG tiles name other colours."""
    if page.mislabelled:
        raise SlideError(
            f"{path}: expected JPEG tiles of {page.photometric}, as the file's directory says. Received: tiles that "
            f"say {page.stream_colour} (page {page.index}): one of both gives other colours.",
            hint="Convert the slide again (vips tiffsave), and compare its colours with the scanner's viewer.",
        )


def require_decodable(path: Path, page: Page) -> None:
    """Raises SlideError for YCbCr samples that no JPEG decoder turns into RGB."""
    if page.photometric == "YCBCR" and not page.jpeg:
        raise SlideError(
            f"{path}: expected an 8-bit RGB image. Received: TIFF of YCbCr samples without JPEG, not in tiles that "
            f"OpenSlide decodes (page {page.index}, {page.size.width} × {page.size.height} px).",
            hint=_CONVERT,
        )


def _meaning(page: Page) -> str:
    bits = f"{page.dtype} with {page.samples} channel(s), {page.photometric}"
    if page.photometric in _GREY:
        return f"grey, not colour: {bits}{_range(page)}"
    return f"a palette of colours: {bits}" if page.photometric == "PALETTE" else bits


def _range(page: Page) -> str:
    if page.largest_value is None:
        return ""
    return f", values up to {page.largest_value} ({max(1, page.largest_value.bit_length())} bits)"
