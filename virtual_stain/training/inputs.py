"""What a run is made of: records, patients on their sides, and what is cut from the tiles; read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config import Config
from virtual_stain.dataset.folds import FoldPlan
from virtual_stain.dataset.pipeline import CropSpec
from virtual_stain.dataset.split import Split, require_no_shared_tissue, split_by_patient, trained_markers
from virtual_stain.errors import ConfigError
from virtual_stain.files import sha256_file
from virtual_stain.markers import ValueDefinition
from virtual_stain.model.tile_reading import crops_per_side
from virtual_stain.model.value import ValueOutput, value_output
from virtual_stain.records.duplicates import known_duplicates
from virtual_stain.records.manifest import MANIFEST, Manifest, read_manifest
from virtual_stain.remote import Location

CROPS_A_VALIDATION_BATCH = 32


@dataclass(frozen=True, slots=True)
class RunInputs:
    """Of one run."""

    records: Location
    manifest: Manifest
    split: Split
    spec: CropSpec
    config: Config

    @property
    def value(self) -> ValueOutput:
        """What the network is to answer: what the records are labelled with."""
        return value_output(self.spec.definition, self.spec.crop_px, self.manifest.tiling.mpp)

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
    """What is cut from the tiles of these records, and what it is a label of."""
    return CropSpec(
        markers=trained_markers(manifest),
        tile_px=manifest.tiling.tile_px,
        crop_px=crop_px,
        definition=ValueDefinition(manifest.value_definition),
    )


def read_inputs(records_dir: Location, config: Config, fold: int, plan: FoldPlan | None = None) -> RunInputs:
    """Raises ConfigError, InputError, VerificationError before anything is written."""
    manifest = read_manifest(records_dir)
    manifest = manifest if plan is None else plan.apply(manifest)
    crop_px = config.model.crop_px
    crops_per_side(manifest.tiling.tile_px, crop_px)
    spec = crop_spec(manifest, crop_px)
    if config.model.head == "svr" and any(m.has_classes for m in spec.markers):
        raise ConfigError(
            'model.head = "svr": a regression per number has no membrane classes, and these records are of HER2.',
            hint='Use model.head = "pooled" or "dense".',
        )
    split = split_by_patient(manifest, fold, config.training.validation_patients)
    require_no_shared_tissue(records_dir, split, known_duplicates(records_dir, sha256_file(records_dir / MANIFEST)))
    return RunInputs(records_dir, manifest, split, spec, config)
