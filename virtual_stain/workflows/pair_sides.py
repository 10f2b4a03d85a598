"""Which side of a pair is the H&E: looked at before any work, since swapped slides register as well as others."""

from __future__ import annotations

from virtual_stain.errors import PairError
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.stain_kind import StainKind, stain_colours
from virtual_stain.slides.tissue import TissueMap

_ALL_THE_SAME = "If the slides are right: --force-unsuitable"


def require_sides(he: Slide, ihc: Slide, he_tissue: TissueMap, ihc_tissue: TissueMap, *, counted: bool) -> None:
    """Raises PairError where the sides show each other's stain; with `counted`, also where one is of the wrong stain.

    Two slides of any stains can be registered, so that registration alone (`counted` False) refuses a swap only, and
    only where the first slide shows brown: blue alone may be another stain.
    """
    of_he, of_ihc = stain_colours(he, he_tissue), stain_colours(ihc, ihc_tissue)
    no_eosin, no_dab = of_he.kind is StainKind.BLUE_BROWN, of_ihc.kind is StainKind.PINK
    if no_dab and no_eosin and (counted or of_he.shows_brown):
        raise PairError(
            f"{he.path}, {ihc.path}: expected the H&E slide first and the IHC slide second. Received: a first slide "
            f"that looks like IHC ({of_he}) and a second one that looks like H&E ({of_ihc}): swapped?",
            hint=f"Exchange them (in a table the columns he and ihc). {_ALL_THE_SAME}",
        )
    if counted and no_eosin:
        raise PairError(
            f"{he.path}: expected the H&E slide of the pair. Received: a slide that looks like IHC ({of_he}): "
            "mislabelled?",
            hint=f"Name the H&E slide in the column he. {_ALL_THE_SAME}",
        )
    if counted and no_dab:
        raise PairError(
            f"{ihc.path}: expected the IHC slide of the pair, blue and brown. Received: a slide that looks like H&E "
            f"({of_ihc}): mislabelled?",
            hint=f"Name the IHC slide in the column ihc. {_ALL_THE_SAME}",
        )
