"""A slide: levels, bounds, pixel size, pixels. OpenSlide formats and plain images look the same from here.

Frames (docs/coordinates.md): px0 is the *uncropped* level 0; `bounds` is the scanned part of it. Label and macro
images are never read: they may show a patient's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ResolutionError, SlideError
from virtual_stain.files import sha256_file
from virtual_stain.geometry import Affine2D, Box, Size
from virtual_stain.slides.companions import named_files
from virtual_stain.slides.damage import TileDamage
from virtual_stain.slides.description import FileDescription, Page
from virtual_stain.slides.fast_source import FastSource
from virtual_stain.slides.image_source import ImageSource
from virtual_stain.slides.level_check import unlike_level
from virtual_stain.slides.levels import LevelClaim, usable_levels
from virtual_stain.slides.openslide_source import OpenSlideSource
from virtual_stain.slides.reader import reader_of, require_readable, require_sane_sides
from virtual_stain.slides.resolution import Mpp, doubts_of_extent, of_resized, resolve_mpp
from virtual_stain.slides.source import Patch, Rgb, Source
from virtual_stain.slides.tiff_description import describe_tiff
from virtual_stain.slides.unknown import MissingTiles, filled_mask, grown
from virtual_stain.slides.virtual_mark import VIRTUAL_SENTENCE
from virtual_stain.slides.window import best_level, read_window

_MOST_BROKEN = 0.5  # of a level's tiles, in an overview
_MAX_OVERVIEW_PX = 64_000_000  # a coarser overview is made beyond this; its transform says how coarse


@dataclass(frozen=True, slots=True)
class SlideRef:
    """Where a slide is and what the user said about it; picklable, for workers."""

    path: Path
    mpp_override: tuple[float, float] | None = None
    """µm per level-0 px, (x, y); wins over what the file says."""
    name: str | None = None
    virtual: bool = False
    """The user knows that the slide may be a predicted one and asks for a look at it."""

    @property
    def stem(self) -> str:
        """The given name, else the file's name without its suffix (both, for .ome.tif)."""
        if self.name is not None:
            return self.name
        stem = self.path.stem
        return stem[:-4] if stem.lower().endswith(".ome") else stem


@dataclass(frozen=True, eq=False)
class Overview:
    """A small picture of `bounds`."""

    image: Rgb
    """uint8[H, W, 3]; white where `unknown`."""
    px0_from_ov: Affine2D
    unknown: npt.NDArray[np.bool_]
    """bool[H, W]: what no camera took."""
    missing: npt.NDArray[np.bool_]
    """bool[H, W]: the part of it that the file's own tables name, tiles that were never written."""
    untaken: npt.NDArray[np.bool_]
    """bool[H, W]: the transparent part, which scanners' formats leave out on purpose, most of it glass."""


class Slide:
    """An open slide; a context manager. Made by `open_slide`."""

    def __init__(
        self,
        ref: SlideRef,
        source: Source,
        description: FileDescription | None = None,
        damage: TileDamage | None = None,
    ) -> None:
        self.ref = ref
        is_sound = {"is_sound": source.is_sound} if isinstance(source, FastSource) else {}
        self._damage = damage or TileDamage(ref.path, source.format, source.level_sizes, **is_sound)
        self._source = source
        self._description = description
        self._levels_agree = False
        claims, resized = of_resized(source.claims, None if description is None else description.aperio_resized)
        resolution = resolve_mpp(ref.path, ref.mpp_override, claims)
        self.mpp: Mpp | None = resolution.mpp
        pages = [None if description is None else description.page_of(size) for size in source.level_sizes]
        pyramid = usable_levels(tuple(map(_level_claim, source.level_sizes, pages)))
        self._levels = pyramid.levels
        self.level_sizes: tuple[Size, ...] = tuple(level.size for level in self._levels)
        self.level_scales: tuple[tuple[float, float], ...] = tuple(level.scale for level in self._levels)
        """px0 per level px along x and y."""
        self.missing: tuple[MissingTiles, ...] = tuple(
            MissingTiles(page.table, level.scale)
            for level in self._levels
            if (page := pages[level.index]) is not None and page.table.count
        )
        """Of the levels of which tiles were never written."""
        self.notes: tuple[str, ...] = source.notes + resolution.notes + pyramid.notes
        self.warnings: tuple[str, ...] = source.warnings + resolution.warnings + resized + pyramid.warnings
        if pages[0] is not None and description is not None:
            self.notes += description.notes(pages[0])
            anyones = self.format == "generic-tiff" or self.format.startswith("image/")
            self.warnings += description.warnings(pages[0], source.level_sizes if anyones else None)
        self.warnings += doubts_of_extent(self.size, self.mpp, whole_slide=not self.format.startswith("image/"))

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    def twin(self) -> Slide:
        """The same slide opened again, for another thread: handles are never shared, decoded tiles are.

        Raises SlideError.
        """
        if isinstance(self._source, FastSource):
            return Slide(self.ref, self._source.twin(), self._description, self._damage)
        return open_slide(self.ref, fast=False)

    @property
    def path(self) -> Path:
        return self.ref.path

    @property
    def name(self) -> str:
        return self.ref.stem

    @property
    def format(self) -> str:
        """OpenSlide's vendor ("hamamatsu", "aperio", "generic-tiff" …) or "image/jpeg", "image/png", "image/tiff"."""
        return self._source.format

    @property
    def size(self) -> Size:
        """Level 0, px0."""
        return self.level_sizes[0]

    @property
    def level_count(self) -> int:
        return len(self.level_sizes)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """px0 per level px, the mean of both axes (they differ by rounding only)."""
        return tuple(math.sqrt(x * y) for x, y in self.level_scales)

    @cached_property
    def bounds(self) -> Box:
        """The scanned part in px0, cut to level 0; all of level 0 where the file names none."""
        whole = Box(0.0, 0.0, float(self.size.width), float(self.size.height))
        if self._source.bounds is None:
            return whole
        return whole.intersection(self._source.bounds) or whole

    def read_patch(self, level: int, x: int, y: int, size: Size) -> Patch:
        """`size` px of `level` from level px (x, y) on; white outside the scan.

        The transform is exact, also where the file's levels do not fall on whole pixels.
        Raises SlideError naming file and region, also where the decoder finds a compressed tile to be broken.
        """
        patch = self.read_unchecked(level, x, y, size)
        broken = self._damage.within(self._levels[level].index, x, y, size)
        if broken:
            raise SlideError(
                f"{self.path}: region x={x} y={y}, {size.width} × {size.height} px of level {level} cannot be trusted: "
                f"{broken[0]}" + (f" (and {len(broken) - 1} more)" if len(broken) > 1 else "") + ".",
                hint="The file is damaged: copy or scan it again.",
            )
        return patch

    def read_unchecked(self, level: int, x: int, y: int, size: Size) -> Patch:
        """The same, with whatever the decoder makes of damaged tiles. Raises SlideError."""
        image, x_read, y_read = self._source.read(self._levels[level].index, x, y, size)
        scale_x, scale_y = self.level_scales[level]
        return Patch(
            image,
            Affine2D.scale_and_shift("px0", "patch", (scale_x, scale_y), (x_read * scale_x, y_read * scale_y)),
        )

    def read_level(self, level: int, x_px0: float, y_px0: float, size: Size | tuple[int, int]) -> Rgb:
        """uint8[H, W, 3] RGB of `level`, from the level pixel nearest to the level-0 position (x_px0, y_px0) on.

        `size`: width and height, px of the level. White outside the scan. Raises SlideError naming file and region.
        """
        scale_x, scale_y = self.level_scales[level]
        wanted = size if isinstance(size, Size) else Size(*size)
        return self.read_patch(level, round(x_px0 / scale_x), round(y_px0 / scale_y), wanted).image

    def overview(self, *, mpp: float | None = None, max_px: int | None = None) -> Overview:
        """A picture of `bounds` at `mpp` µm/px, or with its longer side at most `max_px`; give exactly one.

        Never finer than level 0. Raises ResolutionError for `mpp` on a slide without pixel size, SlideError.
        """
        bounds = self.bounds
        if (mpp is None) == (max_px is None):
            raise ValueError(f"Expected mpp or max_px. Received: mpp={mpp}, max_px={max_px}")
        if mpp is not None:
            if self.mpp is None:
                raise ResolutionError(f"{self.path}: the slide carries no pixel size.", hint="Pass it with --mpp.")
            target = max(mpp, self.mpp.x, self.mpp.y)
            scale_x, scale_y = target / self.mpp.x, target / self.mpp.y
        else:
            assert max_px is not None
            scale_x = scale_y = max(1.0, bounds.width / max_px, bounds.height / max_px)
        coarser = max(1.0, math.sqrt(bounds.area / scale_x / scale_y / _MAX_OVERVIEW_PX))
        scale_x, scale_y = scale_x * coarser, scale_y * coarser
        # the picture covers the bounds exactly, so its pixels are wider or narrower than asked for by a little
        out = Size(max(1, round(bounds.width / scale_x)), max(1, round(bounds.height / scale_y)))
        scale = bounds.width / out.width, bounds.height / out.height
        self._require_one_picture()
        image = read_window(_Unchecked(self), bounds, out)
        px0_from_ov = Affine2D.scale_and_shift("px0", "ov", scale, (bounds.x, bounds.y))
        filled = filled_mask(image)
        missing = np.zeros_like(filled)
        for tiles in (*self.missing, *self._broken(best_level(self, min(scale)), bounds)):
            missing |= tiles.on(filled.shape, px0_from_ov)
        if filled.any() or missing.any():
            image = np.where((grown(filled) | missing)[..., None], np.uint8(255), image)
        untaken = self._untaken(best_level(self, min(scale)), bounds, filled.shape)
        return Overview(image, px0_from_ov, filled | missing | untaken, missing, untaken)

    def _require_one_picture(self) -> None:
        """Raises SlideError where a level shows another picture than the one below it; asked once a slide."""
        if self._levels_agree:
            return
        level = unlike_level(_Unchecked(self), self.level_sizes)
        if level is not None:
            size = self.level_sizes[level]
            raise SlideError(
                f"{self.path}: expected levels that show one picture. Received: level {level} of {size.width} × "
                f"{size.height} px, which shows another picture than level {level - 1}, or none.",
                hint="Write the pyramid again (vips tiffsave --tile --pyramid), or export the slide without levels.",
            )
        self._levels_agree = True

    def _untaken(self, level: int, bounds: Box, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """On a picture of `bounds`, bool[shape]: what the scanner's format leaves out."""
        source = self._source
        found = None
        if isinstance(source, OpenSlideSource | ImageSource):
            found = source.untaken(self._levels[level].index, bounds)
        if found is None or not found.any():
            return np.zeros(shape, np.bool_)
        part = cv2.resize(found.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        return np.asarray(part > 0.5, np.bool_)

    def tiles_within(self, level: int, x: int, y: int, size: Size) -> list[tuple[int, int, Size]]:
        """Left, top and size (level px) of the parts of a region that lie in one compressed tile each; none where the
        tiles are unknown, or sound."""
        source_level = self._levels[level].index
        tile = self._damage.tile(source_level)
        if tile is None or not self._damage.within(source_level, x, y, size):
            return []
        lefts = [x, *range((x // tile.width + 1) * tile.width, x + size.width, tile.width), x + size.width]
        tops = [y, *range((y // tile.height + 1) * tile.height, y + size.height, tile.height), y + size.height]
        return [
            (left, top, Size(right - left, bottom - top))
            for top, bottom in itertools.pairwise(tops)
            for left, right in itertools.pairwise(lefts)
        ]

    def _broken(self, level: int, box: Box) -> tuple[MissingTiles, ...]:
        """The damaged tiles of a level within `box` (px0)."""
        source_level, scale = self._levels[level].index, self.level_scales[level]
        width, height = math.ceil(box.width / scale[0]), math.ceil(box.height / scale[1])
        self._damage.within(source_level, int(box.x / scale[0]), int(box.y / scale[1]), Size(width, height))
        table = self._damage.table(source_level)
        if table is None:
            return ()
        if table.count > _MOST_BROKEN * table.missing.size:
            raise SlideError(
                f"{self.path}: {table.count} of {table.missing.size} compressed tiles of level {level} are damaged: "
                "the decoder found their data to be corrupt.",
                hint="Copy or scan the slide again.",
            )
        return (MissingTiles(table, scale),)

    def content_hash(self) -> str:
        """sha256 (hex) of the file's bytes; where a slide is many files, of those that its index names, or of
        OpenSlide's own hash of them.

        Reads the whole file: callers keep the result. Raises InputError.
        """
        digest = sha256_file(self.path)
        for part in named_files(self.path):
            if part.is_file():  # maps and macro images may be left out
                digest = hashlib.sha256(f"{digest} {sha256_file(part)}".encode()).hexdigest()
        quick = self._source.quickhash()
        return digest if quick is None else hashlib.sha256(f"{digest} {quick}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Unchecked:
    """A slide whose damaged tiles are read as the decoder fills them, for who marks them as unknown; fits `Levels`."""

    slide: Slide

    @property
    def path(self) -> Path:
        return self.slide.path

    @property
    def bounds(self) -> Box:
        return self.slide.bounds

    @property
    def level_scales(self) -> tuple[tuple[float, float], ...]:
        return self.slide.level_scales

    def read_patch(self, level: int, x: int, y: int, size: Size) -> Patch:
        try:
            return self.slide.read_unchecked(level, x, y, size)
        except SlideError:
            parts = self.slide.tiles_within(level, x, y, size)
            if not parts:
                raise
        image = np.full((size.height, size.width, 3), 255, np.uint8)
        for part_x, part_y, part in parts:
            with contextlib.suppress(SlideError):
                rows = slice(part_y - y, part_y - y + part.height)
                columns = slice(part_x - x, part_x - x + part.width)
                image[rows, columns] = self.slide.read_unchecked(level, part_x, part_y, part).image
        scale_x, scale_y = self.slide.level_scales[level]
        shift = x * scale_x, y * scale_y
        return Patch(image, Affine2D.scale_and_shift("px0", "patch", (scale_x, scale_y), shift))


def open_slide(ref: SlideRef, *, fast: bool = True) -> Slide:
    """Opens a slide file or a plain image.

    `fast`: decode JPEG tiles without OpenSlide where that gives the same pixels (see `fast_source`).
    Raises SlideError (missing, unreadable, unsupported, too large; virtual, and not asked for as such) or
    ResolutionError (unusable override).
    """
    require_readable(ref.path)
    description = describe_tiff(ref.path)
    if description is not None and description.virtual and not ref.virtual:
        raise SlideError(
            f"{ref.path}: expected a slide that a scanner took. Received: a virtual slide, {VIRTUAL_SENTENCE}. "
            "A prediction never comes back as truth.",
            hint="Give the stained slide. For a look at what the counter sees on it: vstain count … --virtual",
        )
    source = reader_of(ref.path, description, fast=fast)
    if source is None:
        raise SlideError(
            f"{ref.path}: expected a slide (NDPI, SVS, MRXS, tiled TIFF, DICOM …) or an image (JPEG, PNG, TIFF). "
            "Received: a file of another kind, or a damaged one.",
        )
    try:
        require_sane_sides(ref.path, source)
        return Slide(ref, source, description)
    except BaseException:
        source.close()
        raise


def _level_claim(size: Size, page: Page | None) -> LevelClaim:
    return LevelClaim(size) if page is None else LevelClaim(size, page.tile, page.um_per_px)
