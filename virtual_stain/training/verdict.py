"""Whether a run has learned anything: its validation beside the one answer that needs no picture."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_GAIN = 0.01
"""Of the constant answer's loss. Of several validations the best one is kept, which is a little below it by chance."""
LEAST_R = 0.2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the validation patients say of a run at its end."""

    learned: bool
    sentence: str
    """Empty where there is nothing to say."""


def verdict(loss: float | None, constant_loss: float | None, tile_r: float | None) -> Verdict:
    """`loss`: the best validation's; `constant_loss`: on the same crops, of the training set's mean for every crop;
    `tile_r`: over tiles within a pair at the best validation, None: too few tiles."""
    if loss is None or constant_loss is None or loss < constant_loss * (1 - LEAST_GAIN):
        return Verdict(True, "")
    r = "not known" if tile_r is None else f"{tile_r:.2f}"
    beside = f"validation loss {loss:.4f}, {constant_loss:.4f} for the training mean as the answer to every crop"
    if tile_r is not None and tile_r >= LEAST_R:
        return Verdict(
            True,
            f"The readings follow the tiles of a slide (r {r}) and no more than that: {beside}. Offsets between "
            "patients outweigh what was learned; more patients make them smaller.",
        )
    return Verdict(
        False,
        f"This run has learned nothing that helps on its validation patients: {beside}, tile r within pairs {r}. "
        "Look at the labels (vstain records show) and the learning rate, or train longer, before this model is used.",
    )
