"""[model], [augment], [training]: the network and how it is fitted. Defaults are the source's numbers."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_one_of, require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The network."""

    kind: str = "inception_v3"
    weights: str = "imagenet"
    """"imagenet" (Keras' own download and cache), a path to a weights file, or "none"."""
    crop_px: int = 512
    """Side of the square that the network sees, px of the tile (no resizing)."""

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, ("inception_v3",))
        require_range("crop_px", self.crop_px, 75, 2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """Label-preserving changes of a training crop; never a rescale, so the pixel size stays."""

    flip: bool = True
    quarter_turns: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """The fit."""

    recipe: str = "inception"
    batch_size: int = 64
    learning_rate: float = 0.01
    max_steps: int = 1_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        require_range("batch_size", self.batch_size, 1, 65_536)
        require_range("learning_rate", self.learning_rate, 1e-9, 10)
        require_range("max_steps", self.max_steps, 1, 10_000_000)
