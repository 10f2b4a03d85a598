"""Which reader a file gets: OpenSlide, with the fast path where it gives the same pixels, or the page decoded whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from virtual_stain.errors import SlideError
from virtual_stain.slides.description import (
    FileDescription,
    Page,
    require_colour,
    require_one_meaning,
    require_tile_size,
)
from virtual_stain.slides.endings import similar_names
from virtual_stain.slides.fast_source import accelerated
from virtual_stain.slides.image_source import open_page, try_image
from virtual_stain.slides.openslide_source import CodecError, OpenSlideSource, try_openslide
from virtual_stain.slides.resolution import MppClaim
from virtual_stain.slides.source import Source
from virtual_stain.slides.tiff_description import with_range

_MAX_SIDE_PX = 1_600_000


def reader_of(path: Path, description: FileDescription | None, *, fast: bool) -> Source | None:
    """The reader of the page that is the slide; None for a file of another kind. Raises SlideError."""
    if description is not None:
        require_tile_size(description)
    try:
        slow = try_openslide(path)
    except CodecError:
        if description is None:
            raise
        slow = None  # the page is decoded whole, if it is small enough
    if description is None:
        if slow is None:
            return try_image(path)
        return accelerated(path, slow) if fast else slow
    page = description.slide_page if slow is None or slow.generic else description.page_of(slow.level_sizes[0])
    try:
        if page is not None:
            require_colour(path, page if page.dtype == "uint8" else with_range(path, page))
            if slow is not None and not slow.generic:
                require_one_meaning(path, page)
        if slow is not None and (page is None or _opened_as(slow, page)):
            if slow.generic:
                slow.claims = _claims(description, slow)
            if page is not None and page.opacity:
                slow.has_holes = True
                return slow
            return accelerated(path, slow) if fast else slow
    except BaseException:
        if slow is not None:
            slow.close()
        raise
    if slow is not None:
        slow.close()
    return open_page(description, page or description.slide_page)


def _claims(description: FileDescription, slow: OpenSlideSource) -> tuple[MppClaim, ...]:
    """OME-XML and ImageJ before OpenSlide's own value; the tags where OpenSlide does not know their unit."""
    of_tags = [c for c in description.claims if c.origin == "tiff-tags"]
    named = [c for c in description.claims if c.origin != "tiff-tags"]
    assumed = bool(of_tags) and of_tags[0].unit_assumed
    known = [replace(c, unit_assumed=assumed) for c in slow.claims if c.x is not None or c.y is not None]
    return (*named, *(known or of_tags))


def _opened_as(slow: OpenSlideSource, page: Page) -> bool:
    """Whether OpenSlide reads this page, and as it is meant: it takes any fourth sample for opacity, and believes the
    directory where JPEG tiles say other colours."""
    if not slow.generic:
        return True
    meant = (page.samples == 3 or page.opacity) and not page.mislabelled
    return page.index == 0 and slow.level_sizes[0] == page.size and meant


def require_sane_sides(path: Path, source: Source) -> None:
    """Raises SlideError for a header that claims gigapixels a side: a narrow overview would ask for their memory."""
    largest = max((max(size.width, size.height) for size in source.level_sizes), default=0)
    if largest > _MAX_SIDE_PX:
        raise SlideError(
            f"{path}: expected at most {_MAX_SIDE_PX} px a side (80 mm at 0.05 µm/px). Received: {largest} px.",
            hint="Its header is damaged, or was made to do harm: copy or scan it again.",
        )


def require_readable(path: Path) -> None:
    """Raises SlideError for what is no file, is empty or cannot be opened."""
    try:
        if path.is_dir():
            raise SlideError(f"{path}: expected a slide file. Received: a folder.")
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError:
        raise SlideError(f"{path}: expected a slide. Received: no such file.", hint=similar_names(path)) from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}.") from None
    if empty:
        raise SlideError(f"{path}: the file is empty.")
