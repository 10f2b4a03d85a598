"""One pair in `work/<pair>/` as the stages of `build-records` hand it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.markers import Marker
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tiles import TileRef

WORK = "work"
TILES = "tiles.h5"
LAYOUT_ONLY = {"labels": ("n_folds", "shard_mb", "keep_ihc"), "counting": ("value_definition",)}
"""Settings that change no tile: they count when records are packed, and may differ from run to run."""


def tile_settings(config: Config, *sections: str) -> dict[str, Any]:
    """Settings of these sections that a tile depends on, as JSON values."""
    settings = config.to_dict()
    return {s: {k: v for k, v in settings[s].items() if k not in LAYOUT_ONLY.get(s, ())} for s in sections}


@dataclass(frozen=True, slots=True)
class PairJob:
    """One pair as workers see it: without the patient."""

    pair: str
    marker: Marker
    he: SlideRef
    ihc: SlideRef
    he_roi: Path | None
    ihc_roi: Path | None
    folder: Path
    """work/<pair>."""
    config: Config
    section: int | None = None
    """See StainPair."""


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """What the main process needs to know of a prepared pair."""

    job: PairJob
    fingerprint: str
    """Of everything that its tiles depend on but the windows themselves."""
    he_sha256: str
    ihc_sha256: str
    error_median_um: float | None
    error_p95_um: float | None
    verdict: str | None
    registration_flags: tuple[str, ...]
    stain: dict[str, Any]
    tiles: tuple[TileRef, ...]
    """() of a pair that the journal knows as built."""
    n_tiles: int
    n_glass: int
    n_little_tissue: int
    """Windows with less tissue than labels.min_tissue_fraction, which are not built."""
    built: bool = False
    """Whether tiles.h5 is there, made from the same, and every tile in it as it was labelled."""

    @property
    def usable(self) -> bool:
        """Whether the registration allows tiles at all."""
        return self.verdict in ("accept", "review")

    @property
    def stain_flags(self) -> tuple[str, ...]:
        """What makes the estimate of the IHC stain, and with it every count, less trustworthy."""
        return tuple(self.stain["flags"])
