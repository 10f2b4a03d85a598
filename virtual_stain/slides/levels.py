"""The scale of every level of a pyramid, and which levels can be believed.

A writer divides by a whole number and rounds, or fills a level's last tiles and counts the filling as pixels. Then
sizes alone give a wrong scale and every position on the level is off. So a level's own resolution goes first where it
states one, and a level that fits to nothing is not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from virtual_stain.geometry import Size

_SAME_FRACTION = 0.01  # a stated scale this close to a whole number that fits the sizes is that number, rounded


@dataclass(frozen=True, slots=True)
class LevelClaim:
    """What the file holds of one level."""

    size: Size
    tile: Size | None = None
    """px; None: not tiled, or not known."""
    um_per_px: tuple[float, float] | None = None
    """By the level's own resolution tags."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level that is used."""

    index: int
    """Of the source."""
    size: Size
    """Without padding."""
    scale: tuple[float, float]
    """px0 per level px, x and y."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The result of `usable_levels`."""

    levels: tuple[Level, ...]
    notes: tuple[str, ...]
    """Sentences: which levels are padded."""
    warnings: tuple[str, ...]
    """Sentences: which levels are left out."""


def usable_levels(claims: tuple[LevelClaim, ...]) -> Pyramid:
    """The levels in their order, level 0 always among them."""
    base = claims[0]
    levels = [Level(0, base.size, (1.0, 1.0))]
    notes, warnings = [], []
    for index, claim in enumerate(claims[1:], start=1):
        size = claim.size
        scale = _scale(base, claim)
        if scale is None:
            warnings.append(
                f"level {index} of {size.width} × {size.height} px does not fit level 0 of {base.size.width} × "
                f"{base.size.height} px: it is not used"
            )
            continue
        true = Size(*(min(s, math.ceil(full / f)) for s, full, f in zip(_wh(size), _wh(base.size), scale, strict=True)))
        if size.width - true.width > 1 or size.height - true.height > 1:
            notes.append(
                f"level {index} is padded to {size.width} × {size.height} px: its part of {true.width} × {true.height} "
                f"px is level 0 divided by {scale[0]:g}"
            )
        levels.append(Level(index, true, scale))
    return Pyramid(tuple(levels), tuple(notes), tuple(warnings))


def _scale(base: LevelClaim, level: LevelClaim) -> tuple[float, float] | None:
    by_size = _divided_by(base.size, level.size)
    stated = _stated(base, level)
    if stated is not None and (by_size is None or max(abs(s / by_size - 1) for s in stated) > _SAME_FRACTION):
        whole = round(math.sqrt(stated[0] * stated[1]))
        return (float(whole), float(whole)) if max(abs(s / whole - 1) for s in stated) < _SAME_FRACTION else stated
    if by_size is not None:
        return float(by_size), float(by_size)
    return None if _padded_unstated(base, level) else _quotients(base.size, level.size)


def _stated(base: LevelClaim, level: LevelClaim) -> tuple[float, float] | None:
    """By the resolutions of both, if the level's size agrees: rounded, or filled up by less than one tile."""
    if base.um_per_px is None or level.um_per_px is None:
        return None
    scale = level.um_per_px[0] / base.um_per_px[0], level.um_per_px[1] / base.um_per_px[1]
    tile = level.tile or Size(1, 1)
    for full, size, by, filled in zip(_wh(base.size), _wh(level.size), scale, _wh(tile), strict=True):
        exact = full / by
        if not exact - 1 <= size <= exact + max(1, filled):
            return None
    return scale


def _divided_by(full: Size, level: Size) -> int | None:
    """The whole number by which the writer divided, rounding either way. A level of 2221 px under one of 4443 px has
    scale 2 and not 4443 / 2221: that would be 1 px wrong at the far end."""
    whole = round(math.sqrt(full.area / level.area))
    if whole < 1:
        return None
    axes = zip(_wh(full), _wh(level), strict=True)
    return whole if all(n in (max(1, f // whole), -(-f // whole)) for f, n in axes) else None


def _padded_unstated(base: LevelClaim, level: LevelClaim) -> bool:
    """Whether whole tiles explain the level's size and no scale is stated: it could be one of several."""
    tile = level.tile
    if tile is None or level.size.width % tile.width or level.size.height % tile.height:
        return False
    if not (base.size.width % tile.width or base.size.height % tile.height):
        return False
    most = max(f / n for f, n in zip(_wh(base.size), _wh(level.size), strict=True))
    axes = tuple(zip(_wh(base.size), _wh(level.size), _wh(tile), strict=True))
    return any(k > most and all(_filled_up(f / k, t) == n for f, n, t in axes) for k in (2**i for i in range(1, 16)))


def _filled_up(px: float, tile: int) -> int:
    return math.ceil(math.ceil(px) / tile) * tile


def _quotients(full: Size, level: Size) -> tuple[float, float] | None:
    """Per axis, where rounding to whole pixels explains the difference of the axes."""
    low = max(full.width / (level.width + 1), full.height / (level.height + 1))
    high = min(full.width / max(1, level.width - 1), full.height / max(1, level.height - 1))
    if level.width > full.width or level.height > full.height or low > high:
        return None
    return full.width / level.width, full.height / level.height


def _wh(size: Size) -> tuple[int, int]:
    return size.width, size.height
