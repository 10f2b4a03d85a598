"""Whether a slide is stained as the slides are that models read: with haematoxylin and eosin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from virtual_stain.errors import UnsuitableError
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.stain_kind import StainColours, StainKind, stain_looks
from virtual_stain.slides.tissue import TissueMap


@dataclass(frozen=True, slots=True)
class StainDoubt:
    """Why a slide that was scored may not be the H&E that the model reads."""

    code: str
    """"not_he": surely none, the user insisted; "perhaps_not_he"."""
    reason: str


def require_he(
    slide: Slide, tissue: TissueMap, *, looks: Sequence[StainColours] | None = None, any_stain: bool = False
) -> StainDoubt | None:
    """Returns what speaks against H&E. Raises UnsuitableError where that is sure, unless `any_stain`.

    `looks`: `stain_looks` of the slide, where they are known already.
    """
    looks = stain_looks(slide, tissue) if looks is None else looks
    if any(look.kind is not StainKind.BLUE_BROWN for look in looks):
        doubts = [look.he_doubt for look in looks if look.kind is not StainKind.BLUE_BROWN]
        return StainDoubt("perhaps_not_he", doubts[0]) if all(doubts) else None
    reason = f"a slide without the pink of eosin, as IHC is: {looks[0]}"
    if any_stain:
        return StainDoubt("not_he", reason)
    raise UnsuitableError(
        f"{slide.path}: expected an H&E slide, since the model reads H&E. Received: {reason}.",
        hint="Count an IHC slide with: vstain count SLIDE --marker ki67 --out DIR. "
        "To score it all the same: --force-unsuitable (or --set scoring.any_stain=true); its readings are flagged.",
    )
