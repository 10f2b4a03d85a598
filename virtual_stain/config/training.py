"""[model], [augment], [training]: the network and how it is fitted. Defaults are the source's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges, require_one_of, require_range

RECIPES = ("inception", "finetune", "scratch")
PRECISIONS = ("auto", "float32", "mixed_bfloat16")
SAMPLINGS = ("without_replacement", "with_replacement")
BALANCES = ("none", "ratio", "patient")
HEADS = ("pooled", "dense", "svr")
CROP_WEIGHTS = ("equal", "cells")
KINDS = ("inception_v3", "small_cnn")
PATHS = ("direct", "indirect")
GENERATORS = ("small", "inception")
TRUNK_ENDS = tuple(f"mixed{i}" for i in range(11))
AUXILIARY_AFTER = 7
"""The auxiliary head reads the last of the 17 × 17 grids, as in the published network."""
MIN_CROP_PX = {"inception_v3": 75, "small_cnn": 16}
"""Below this the last feature map of the network is empty, px."""
MIN_INDIRECT_CROP_PX = 32
"""Of the generator: below this a crop is nothing but border, px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The network, and which tiles its readings are made of."""

    path: str = "direct"
    """"direct": from the H&E tile to the value; "indirect": first to what its IHC tile is made of (one nuclear marker,
    records with labels.keep_ihc). Then `kind`, `trunk_end` and `head` are not used, but `generator` is."""
    generator: str = "small"
    """Indirect path: "small" trains in minutes on two cores; "inception" is InceptionV3 up to mixed3 with a decoder. It
    takes pre-trained weights, and is meant for a GPU."""
    kind: str = "inception_v3"
    """"inception_v3"; "small_cnn" is a few convolutions to try a set-up with, not a model to read slides with."""
    trunk_end: str = "mixed10"
    """InceptionV3: the mixed block that it ends after, "mixed0" … "mixed10"; "mixed10" is the whole network."""
    head: str = "pooled"
    """"pooled": the original; "dense": fully convolutional, also gives a map; "svr": support vectors on pooled
    features of `weights`, nothing else is trained (needs the extra "svr")."""
    svr_crops: Annotated[int, Range(20, 100_000)] = 4000
    """Head "svr": at most this many training crops; time and size grow with it."""
    weights: str = "imagenet"
    """"imagenet" (Keras' own download and cache), a path to a weights file, or "none" (random)."""
    crop_px: int = 512
    """Side of the square that the network sees, px of the tile (no resizing); the tile is a whole number of them."""
    crop_weights: str = "equal"
    """What the crops of a tile weigh in its ratio: "equal" (the source's mean) or "cells", their expected tumour cells,
    as a ratio is counted: a crop that is half of glass then weighs half."""
    dropout: Annotated[float, Range(0, 0.95)] = 0.2
    """Share of pooled features dropped in training (0.2 in the original InceptionV3)."""
    auxiliary_head: bool = False
    """A second reading from the middle of the network, in training only (the original InceptionV3 has one)."""
    batch_norm_momentum: Annotated[float, Range(0, 0.99999)] = 0.99
    """Keras' momentum of the moving statistics; short runs need less (0.9), or inference sees the starting values."""
    min_tissue_fraction: Annotated[float, Range(0, 1)] = 0.5
    """Tiles with less tissue are scored but enter no reading; stored in the bundle."""
    min_expected_tumour_cells: Annotated[float, Range(0, 100_000)] = 50.0
    """Tiles with fewer expected tumour cells are scored but enter no reading; stored in the bundle."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require_one_of("path", self.path, PATHS)
        require_one_of("generator", self.generator, GENERATORS)
        require_one_of("kind", self.kind, KINDS)
        require_one_of("trunk_end", self.trunk_end, TRUNK_ENDS)
        require_one_of("head", self.head, HEADS)
        require_one_of("crop_weights", self.crop_weights, CROP_WEIGHTS)
        smallest = MIN_CROP_PX[self.kind] if self.path == "direct" else MIN_INDIRECT_CROP_PX
        require_range("crop_px", self.crop_px, smallest, 2048)
        if not self.weights:
            raise ValueError('weights: expected "imagenet", "none" or a path. Received: an empty text')
        self._check_trunk()

    def _check_trunk(self) -> None:
        if self.kind != "inception_v3":
            if self.trunk_end != TRUNK_ENDS[-1]:
                raise ValueError(f'trunk_end: expected kind "inception_v3" beside it. Received: {self.kind!r}')
        elif self.auxiliary_head and TRUNK_ENDS.index(self.trunk_end) <= AUXILIARY_AFTER:
            raise ValueError(
                f"auxiliary_head: it reads after mixed{AUXILIARY_AFTER}, so trunk_end must lie behind. "
                f"Received: {self.trunk_end}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """Label-preserving changes of a training crop; no rescale beyond ± 5 %, so the pixel size stays."""

    flip: bool = True
    """Mirror at random."""
    quarter_turns: bool = True
    """Turn by 0, 90, 180 or 270 degrees at random."""
    random_crop: bool = True
    """The crop lies anywhere in the tile; otherwise on the non-overlapping grid of prediction."""
    rescale: Annotated[float, Range(0, 0.05)] = 0.0
    """The crop's window is larger or smaller by this share at most, and resized; its label is counted in the window."""
    hematoxylin_gain: Annotated[float, Range(0, 0.9)] = 0.2
    """Haematoxylin's optical density is multiplied by 1 ± this at most …"""
    eosin_gain: Annotated[float, Range(0, 0.9)] = 0.2
    """… and eosin's by 1 ± this (white stays white)."""
    channel_gain: Annotated[float, Range(0, 0.9)] = 0.08
    """Each channel's optical density is multiplied by 1 ± this at most: another camera, another stain batch."""
    channel_shift: Annotated[float, Range(0, 0.5)] = 0.02
    """Each channel's intensity is shifted by ± this share of full scale at most."""
    brightness: Annotated[float, Range(0, 0.5)] = 0.03
    """All channels are shifted together by ± this share of full scale at most."""
    contrast: Annotated[float, Range(0, 0.9)] = 0.1
    """Differences from the crop's mean are multiplied by 1 ± this at most."""
    blur_px: Annotated[float, Range(0, 3)] = 0.7
    """Sigma of the strongest blur, px of the crop; 0: none."""
    blur_share: Annotated[float, Range(0, 1)] = 0.2
    """Share of the crops that are blurred."""
    jpeg_quality_min: Annotated[int, Range(20, 100)] = 100
    """Lowest JPEG quality of the crops that are compressed again; 100: none."""
    jpeg_share: Annotated[float, Range(0, 1)] = 0.2
    """Share of the crops that are compressed again."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def changes_colour(self) -> bool:
        """Whether any of the changes of density or light is on."""
        gains = (self.hematoxylin_gain, self.eosin_gain, self.channel_gain, self.contrast)
        return any(v > 0 for v in (*gains, self.channel_shift, self.brightness))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """The fit. Steps are optimizer steps: one per `batch_size` crops, however many micro-batches that takes."""

    recipe: str = "inception"
    """"inception" (RMSprop, staircase decay), "finetune" (head, then all layers) or "scratch" (Adam, cosine)."""
    batch_size: Annotated[int, Range(1, 65_536)] = 64
    """Crops per optimizer step."""
    micro_batch_size: int | None = None
    """Crops in memory at a time; gradients of batch_size / micro_batch_size parts are added up. None: batch_size."""
    learning_rate: Annotated[float, Range(1e-9, 10)] = 0.01
    """Initial rate; in recipe "finetune" the low rate of all layers."""
    max_steps: Annotated[int, Range(1, 10_000_000)] = 1_000_000
    """At most this many optimizer steps."""
    sampling: str = "without_replacement"
    """"without_replacement": an epoch holds every tile once; "with_replacement": every draw is independent."""
    balance: str = "none"
    """Draw every bin of the label ("ratio") or every "patient" equally often, or all tiles as they are ("none")."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of the starting weights, the order of the tiles and every augmentation."""
    distribute: str = "auto"
    """"auto": every GPU, and every worker that TF_CONFIG names; "none": one process, one device."""
    precision: str = "auto"
    """"float32", "mixed_bfloat16", or "auto": bfloat16 where the processor multiplies it in hardware."""

    decay_factor: Annotated[float, Range(1e-6, 1)] = 0.94
    """Recipe "inception": the rate is multiplied by this …"""
    decay_epochs: Annotated[float, Range(1e-6, 1e6)] = 2.0
    """… every so many epochs (an epoch is one crop of every training tile)."""
    rho: Annotated[float, Range(0, 0.999999)] = 0.9
    """RMSprop: decay of the mean square."""
    momentum: Annotated[float, Range(0, 0.999999)] = 0.9
    """RMSprop: momentum."""
    epsilon: Annotated[float, Range(1e-12, 100)] = 1.0
    """RMSprop: added to the mean square; with Keras' 1e-7 a rate of 0.01 destroys pre-trained weights."""
    clip_norm: Annotated[float, Range(0, 1e6)] = 2.0
    """Global norm to which the gradient is clipped; 0: never."""
    auxiliary_weight: Annotated[float, Range(0, 10)] = 0.4
    """Weight of the auxiliary head's loss, where model.auxiliary_head is on."""
    weight_average: Annotated[float, Range(0, 0.9999999)] = 0.9999
    """Moving average of weights, decay min(this, (1 + t) / (10 + t)) at step t; 0: none."""
    batch_norm_crops: Annotated[int, Range(0, 100_000)] = 0
    """Before a validation, BatchNormalization's statistics are measured on so many training crops under the averaged
    weights; 0: the moving ones. A short run needs it; crops are kept in memory."""
    warmup_steps: Annotated[int, Range(0, 1_000_000)] = 0
    """Recipes "scratch" and "finetune": linear rise of the rate over the first steps."""
    head_steps: Annotated[int, Range(0, 1_000_000)] = 500
    """Recipe "finetune": steps of the head alone."""
    head_learning_rate: Annotated[float, Range(1e-9, 10)] = 1e-3
    """Recipe "finetune": rate of the head alone."""

    min_crop_cells: Annotated[int, Range(1, 100_000)] = 10
    """Crops with fewer tumour cells have ratio weight 0."""
    max_crop_cells: int = 200
    """A crop's weight is its number of tumour cells, capped here."""
    cells_loss_weight: Annotated[float, Range(0, 1000)] = 0.1
    """Weight of the Poisson loss of the expected number of tumour cells (divided by the mean number of a crop)."""

    stain_loss_weight: Annotated[float, Range(0, 1e6)] = 10.0
    """Indirect path: weight of the squared error of the two densities."""

    validate_every_steps: Annotated[int, Range(1, 10_000_000)] = 1000
    """Optimizer steps between validations."""
    validation_patients: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of the patients outside the test fold that chooses the checkpoint; 0: the whole fold after the test."""
    max_patients: Annotated[int, Range(0, 1_000_000)] = 0
    """Train on no more than so many patients; 0: on all. Fewer are always a part of more (`fit --learning-curve`)."""
    validation_tiles: Annotated[int, Range(1, 10_000_000)] = 2000
    """At most this many tiles a validation, the same ones every time, spread over all validation pairs."""
    patience: Annotated[int, Range(0, 1_000_000)] = 20
    """Converged: the validation loss has not fallen for this many validations. 0: never stop early."""
    min_improvement: Annotated[float, Range(0, 1)] = 1e-4
    """A fall of the validation loss smaller than this share does not count as one."""
    checkpoint_minutes: Annotated[float, Range(0, 1e6)] = 10.0
    """Minutes between two writings of the last state, so that a kill loses no more."""
    log_every_steps: Annotated[int, Range(1, 1_000_000)] = 20
    """Steps between two lines of history.csv; the loss is looked at for NaN as often."""
    shuffle_tiles: Annotated[int, Range(1, 10_000_000)] = 4096
    """Encoded tiles in the shuffle buffer (about 0.4 MB each at 1024 px)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require_one_of("recipe", self.recipe, RECIPES)
        require_one_of("precision", self.precision, PRECISIONS)
        require_one_of("distribute", self.distribute, ("auto", "none"))
        require_one_of("sampling", self.sampling, SAMPLINGS)
        require_one_of("balance", self.balance, BALANCES)
        if self.micro_batch_size is not None and (
            self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size != 0
        ):
            raise ValueError(
                f"micro_batch_size: expected a divisor of batch_size {self.batch_size}. "
                f"Received: {self.micro_batch_size}"
            )
        require_range("max_crop_cells", self.max_crop_cells, self.min_crop_cells, 1_000_000)

    @property
    def micro_batches(self) -> int:
        """Micro-batches per optimizer step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)
