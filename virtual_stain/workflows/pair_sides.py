"""Which side of a pair is the H&E: looked at before any work, since swapped slides register as well as others."""

from __future__ import annotations

from virtual_stain.errors import PairError
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.stain_kind import StainColours, StainKind, stain_colours
from virtual_stain.slides.tissue import TissueMap

SWAPPED = ": swapped?"
"""What the sentence of a swapped pair ends with."""
_ALL_THE_SAME = "If the slides are right: --force-unsuitable"


def swapped(he: Slide, ihc: Slide, he_tissue: TissueMap, ihc_tissue: TissueMap) -> str:
    """A sentence where the first slide shows DAB and the second one eosin; "" otherwise.

    Two slides of any stains can be registered, in any order, so that registration alone only says it.
    """
    of_he, of_ihc = stain_colours(he, he_tissue), stain_colours(ihc, ihc_tissue)
    if of_ihc.kind is not StainKind.PINK or of_he.kind is not StainKind.BLUE_BROWN or not of_he.shows_brown:
        return ""
    return _swap(of_he, of_ihc)


def require_sides(he: Slide, ihc: Slide, he_tissue: TissueMap, ihc_tissue: TissueMap) -> None:
    """Raises PairError where the sides show each other's stain, or one of them the wrong one: cells would be counted on
    H&E, or tiles of IHC be learned from."""
    of_he, of_ihc = stain_colours(he, he_tissue), stain_colours(ihc, ihc_tissue)
    no_eosin, no_dab = of_he.kind is StainKind.BLUE_BROWN, of_ihc.kind is StainKind.PINK
    if no_dab and no_eosin:
        raise PairError(
            f"{he.path}, {ihc.path}: {_swap(of_he, of_ihc)}",
            hint=f"Exchange them (in a table the columns he and ihc). {_ALL_THE_SAME}",
        )
    if no_eosin:
        raise PairError(
            f"{he.path}: expected the H&E slide of the pair. Received: a slide that looks like IHC ({of_he}): "
            "mislabelled?",
            hint=f"Name the H&E slide in the column he. {_ALL_THE_SAME}",
        )
    if no_dab:
        raise PairError(
            f"{ihc.path}: expected the IHC slide of the pair, blue and brown. Received: a slide that looks like H&E "
            f"({of_ihc}): mislabelled?",
            hint=f"Name the IHC slide in the column ihc. {_ALL_THE_SAME}",
        )


def _swap(of_he: StainColours, of_ihc: StainColours) -> str:
    return (
        f"expected the H&E slide first and the IHC slide second. Received: a first slide that looks like IHC ({of_he}) "
        f"and a second one that looks like H&E ({of_ihc}){SWAPPED}"
    )
