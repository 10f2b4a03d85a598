"""Slides and the tissue on them."""

from __future__ import annotations

from virtual_stain.api.arguments import Mpp, PathLike, Settings, config_of, slide_of
from virtual_stain.config import Config
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.slide import open_slide as open_ref
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.tissue import find_tissue as find


def open_slide(slide: PathLike, *, mpp: Mpp = None) -> Slide:
    """Opens a whole-slide image or a plain picture. The result is a context manager.

    Parameters
    ----------
    slide
        A file that `docs/formats.md` lists.
    mpp
        Pixel size in µm per level-0 px, one number or (x, y). It replaces what the file states.

    Returns
    -------
    Slide
        `size` (level-0 px), `mpp` (µm/px, or None if it is not known), `warnings` and `overview(max_px=…)`.
        `read_level(level, x_px0, y_px0, size)` returns uint8[height, width, 3], RGB.

    Raises
    ------
    SlideError
        The file cannot be read or is damaged, or it is not an image in transmitted light.
    ConfigError
        `mpp` is not a pixel size.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> with vs.open_slide("he.tiff") as slide:
    ...     print(slide.mpp.x, "µm/px", slide.level_count, "levels")
    0.5 µm/px 2 levels
    """
    ref = slide_of(slide, mpp)
    require_survivable(ref)
    return open_ref(ref)


def find_tissue(
    slide: Slide | PathLike,
    *,
    mpp: Mpp = None,
    config: PathLike | Config | None = None,
    settings: Settings = None,
) -> TissueMap:
    """Finds the tissue of a slide on an overview of it.

    Parameters
    ----------
    slide
        An open slide, or a file.
    mpp
        Pixel size of a file in µm per level-0 px. It replaces what the file states.
    config, settings
        A TOML file, and single settings that change it, such as `{"tissue.overview_mpp": 8.0}`.

    Returns
    -------
    TissueMap
        `mask` (bool[height, width], px of the overview), `fraction_in(box)`, `area_um2(mpp)` and `warnings`.
        Pixels that were not scanned are neither tissue nor glass.

    Raises
    ------
    SlideError
        The file cannot be read.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> tissue = vs.find_tissue("he.tiff")
    >>> tissue.mask.dtype, bool(tissue.mask.any())
    (dtype('bool'), True)
    """
    tissue = config_of(config, settings).tissue
    if isinstance(slide, Slide):
        return find(slide, tissue)
    with open_slide(slide, mpp=mpp) as opened:
        return find(opened, tissue)
