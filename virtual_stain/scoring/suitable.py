"""Whether a slide is stained as the slides are that models read: with haematoxylin and eosin."""

from __future__ import annotations

from virtual_stain.errors import UnsuitableError
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.stain_kind import StainKind, stain_colours
from virtual_stain.slides.tissue import TissueMap


def require_he(slide: Slide, tissue: TissueMap, *, any_stain: bool = False) -> str:
    """Returns "", or with `any_stain` what contradicts H&E. Raises UnsuitableError."""
    colours = stain_colours(slide, tissue)
    if colours.kind is not StainKind.BLUE_BROWN:
        return ""
    reason = f"a slide without the pink of eosin, as IHC is: {colours}"
    if any_stain:
        return reason
    raise UnsuitableError(
        f"{slide.path}: expected an H&E slide, since the model reads H&E. Received: {reason}.",
        hint="Count an IHC slide with: vstain count SLIDE --marker ki67 --out DIR. "
        "To score it all the same: --force-unsuitable (or --set scoring.any_stain=true); its readings are flagged.",
    )
