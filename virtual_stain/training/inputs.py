"""What a run is made of: records, patients on their sides, and what is cut from the tiles; read and checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from virtual_stain.config import Config, CountingSettings
from virtual_stain.dataset.folds import FoldPlan
from virtual_stain.dataset.ihc_side import IhcSide, ihc_side
from virtual_stain.dataset.pipeline import CropSpec
from virtual_stain.dataset.split import Split, require_no_shared_tissue, split_by_patient, trained_markers
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.files import sha256_file
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import constant_outputs
from virtual_stain.model.generator import require_generator
from virtual_stain.model.tile_reading import crops_per_side
from virtual_stain.model.value import ValueOutput, value_output
from virtual_stain.records.duplicates import known_duplicates
from virtual_stain.records.manifest import MANIFEST, Manifest, read_manifest
from virtual_stain.remote import Location
from virtual_stain.training.step import LossWeights

CROPS_A_VALIDATION_BATCH = 32
MIN_INDIRECT_PATIENTS = 6
"""Training patients: a generator that has seen fewer stains paints what it has seen."""


@dataclass(frozen=True, slots=True)
class RunInputs:
    """Of one run."""

    records: Location
    manifest: Manifest
    split: Split
    spec: CropSpec
    config: Config
    ihc: IhcSide | None = None
    """Indirect path: the IHC side of the training pairs."""

    @property
    def value(self) -> ValueOutput:
        """What the network is to answer: what the records are labelled with."""
        definition = ValueDefinition(self.manifest.value_definition)
        return value_output(definition, self.spec.crop_px, self.manifest.tiling.mpp)

    @property
    def mean_ratio(self) -> dict[Marker, float]:
        """Share of positive cells over the training pairs' labels; 0.5 where there is none."""
        counts = {m: self._labelled(m) for m in self.spec.markers}
        return {m: positive / total if total else 0.5 for m, (positive, total, _) in counts.items()}

    @property
    def mean_cells(self) -> dict[Marker, float]:
        """Tumour cells of a crop, mean over the training pairs' labels."""
        per_tile = crops_per_side(self.spec.tile_px, self.spec.crop_px) ** 2
        counts = {m: self._labelled(m) for m in self.spec.markers}
        return {m: total / max(tiles * per_tile, 1) for m, (_, total, tiles) in counts.items()}

    @property
    def constant_outputs(self) -> dict[str, float]:
        """The training set's mean as the network's answer: what it starts from, and what it must beat."""
        return constant_outputs(self.mean_ratio, self.mean_cells)

    def _labelled(self, marker: Marker) -> tuple[int, int, int]:
        """(positive cells, tumour cells, tiles): the manifest counts the cells of the records whose value trains."""
        pairs = [p for p in self.split.train if p.marker == marker.value]
        positive = sum(p.positive for p in pairs)
        return positive, positive + sum(p.negative for p in pairs), sum(p.n_ratio for p in pairs)

    @property
    def loss(self) -> LossWeights:
        """How the two likelihoods are added up."""
        settings, cells = self.config.training, self.mean_cells
        per_crop = 1 / max(1.0, sum(cells.values()) / len(cells))
        return LossWeights(
            settings.min_crop_cells,
            settings.max_crop_cells,
            settings.cells_loss_weight * per_crop,
            count_factor=per_crop,
        )

    @property
    def validation_batch_tiles(self) -> int:
        """Tiles at a time while validating."""
        return max(1, CROPS_A_VALIDATION_BATCH // crops_per_side(self.spec.tile_px, self.spec.crop_px) ** 2)

    @property
    def other_tiling(self) -> str | None:
        """A sentence where the configuration's [tiling] is not that of the records, which alone counts; else None."""
        asked, found = self.config.tiling, self.manifest.tiling
        if (asked.window_um, asked.tile_px) == (found.window_um, found.tile_px):
            return None
        return (
            f"The tiles of the records are {found.window_um:g} µm, {found.tile_px} px ({found.mpp:g} µm/px), so a crop "
            f"of {self.spec.crop_px} px is {self.spec.crop_px * found.mpp:g} µm. The configuration's [tiling] "
            f"({asked.window_um:g} µm, {asked.tile_px} px) is not used: it counts when records are built."
        )


def crop_spec(manifest: Manifest, crop_px: int) -> CropSpec:
    """What is cut from the tiles of these records."""
    return CropSpec(markers=trained_markers(manifest), tile_px=manifest.tiling.tile_px, crop_px=crop_px)


def _require_same_value(manifest: Manifest, config: Config, records: Location) -> None:
    """Raises ConfigError where the configuration asks for another value than the records are labelled with."""
    asked, found = config.counting.value_definition, manifest.value_definition
    if asked.value != found and asked is not CountingSettings().value_definition:
        raise ConfigError(
            f"{records}: expected records of the configuration's counting.value_definition, {asked.value}. "
            f"Received: {found}.",
            hint=f"Pack them anew, which counts nothing again: vstain build-records … --set "
            f"counting.value_definition={asked.value}",
        )


def read_inputs(records_dir: Location, config: Config, fold: int, plan: FoldPlan | None = None) -> RunInputs:
    """Raises ConfigError, InputError, VerificationError before anything is written."""
    manifest = read_manifest(records_dir)
    manifest = manifest if plan is None else plan.apply(manifest)
    _require_same_value(manifest, config, records_dir)
    # the run's record must name the value that it learns
    definition = ValueDefinition(manifest.value_definition)
    config = dataclasses.replace(config, counting=dataclasses.replace(config.counting, value_definition=definition))
    crop_px = config.model.crop_px
    crops_per_side(manifest.tiling.tile_px, crop_px)
    spec = crop_spec(manifest, crop_px)
    if config.model.head == "svr" and any(m.has_intensities for m in spec.markers):
        raise ConfigError(
            'model.head = "svr": a regression per number has no intensities, and these records are of HER2.',
            hint='Use model.head = "pooled" or "dense".',
        )
    split = split_by_patient(manifest, fold, config.training.validation_patients, config.training.max_patients)
    require_no_shared_tissue(records_dir, split, known_duplicates(records_dir, sha256_file(records_dir / MANIFEST)))
    ihc = _ihc_side(records_dir, manifest, split, config) if config.model.path == "indirect" else None
    return RunInputs(records_dir, manifest, split, spec, config, ihc)


def _ihc_side(records: Location, manifest: Manifest, split: Split, config: Config) -> IhcSide:
    """Raises ConfigError and InputError for what the indirect path cannot learn from."""
    markers = trained_markers(manifest)
    require_generator(markers, config.model, manifest.tiling.mpp, config.counting.max_mpp)
    if manifest.value_definition != ValueDefinition.POSITIVE_RATIO:
        raise ConfigError(
            f'model.path = "indirect": expected records of positive_ratio. Received: {manifest.value_definition}.'
        )
    patients = len(split.patients()["train"])
    if patients < MIN_INDIRECT_PATIENTS:
        raise InputError(
            f"{records}: expected at least {MIN_INDIRECT_PATIENTS} training patients for the indirect path. "
            f"Received: {patients}.",
            hint='Build records of more patients, or train the direct path: model.path = "direct".',
        )
    return ihc_side(records, split.train)
