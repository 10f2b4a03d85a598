"""Records: labelled H&E tiles, for training with this program or with another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtual_stain.api.arguments import PathLike, Settings, Tracker, config_of, progress_of
from virtual_stain.config import Config
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.markers import ValueDefinition
from virtual_stain.records.manifest import Manifest, PairEntry, read_manifest
from virtual_stain.remote import Location, parse_location
from virtual_stain.workflows.build_records import BuildOptions
from virtual_stain.workflows.build_records import build_records as build

if TYPE_CHECKING:
    import pandas
    import tensorflow as tf


@dataclass(frozen=True, slots=True, repr=False)
class Records:
    """A folder of records: TFRecord shards and their manifest."""

    folder: Location
    """A folder on this machine or in object storage."""
    manifest: Manifest

    def __repr__(self) -> str:
        found = f"{len(self)} records of {len(self.manifest.pairs)} pairs in {self.manifest.n_folds} folds"
        return f"<Records {self.folder}: {found}, {', '.join(self.markers)}>"

    def __len__(self) -> int:
        return self.manifest.n_records

    @property
    def markers(self) -> tuple[str, ...]:
        """Markers of the pairs, such as "ki67"."""
        return self.manifest.markers

    def to_frame(self) -> pandas.DataFrame:
        """A table with one row for each pair: patient, fold, records, cells, registration error (µm) and verdict."""
        import pandas

        rows = [
            {
                "pair": p.pair,
                "patient_id": p.patient_id,
                "fold": p.fold,
                "marker": p.marker,
                "records": p.n_records,
                "records_with_ratio": p.n_ratio,
                "positive": p.positive,
                "negative": p.negative,
                "registration_error_median_um": p.registration.error_median_um,
                "registration_verdict": p.registration.verdict,
            }
            for p in self.manifest.pairs
        ]
        return pandas.DataFrame(rows)

    def dataset(
        self,
        *,
        crop_px: int = 512,
        batch_size: int = 16,
        folds: Sequence[int] | None = None,
        augment: bool = False,
        seed: int = 0,
        min_cells: int = 10,
        max_cells: int = 200,
        settings: Settings = None,
    ) -> tf.data.Dataset:
        """An endless dataset of random crops for your own Keras model.

        Use it as `model.fit(records.dataset(), steps_per_epoch=…)`.

        Parameters
        ----------
        crop_px
            Side of a crop in px, at the pixel size of the records. A tile must hold a whole number of crops.
        batch_size
            Number of crops in a batch.
        folds
            Folds to read. None: all. Keep the test folds out of training.
        augment
            Change the crops as `vstain fit` does. `settings`, such as `{"augment.blur_px": 0.5}`, say how much.
        seed
            The same seed gives the same batches.
        min_cells, max_cells
            A crop with fewer than `min_cells` tumour cells has weight 0. A crop with more than `max_cells` has the
            weight of `max_cells`.

        Returns
        -------
        tf.data.Dataset
            Batches of (crop, ratio, weight). The crop is uint8[B, crop_px, crop_px, 3], RGB. The ratio is float32[B],
            0–1: positive / all tumour cells inside the crop. The weight is float32[B]: the number of these cells times
            the trust in the label of the tile.

        Raises
        ------
        InputError
            There is no record in these folds.
        ConfigError
            The records are of several markers or of counts per mm², or the crop does not divide the tile.

        Examples
        --------
        >>> import virtual_stain as vs
        >>> crops, ratio, weight = next(iter(vs.open_records("records").dataset(crop_px=64, batch_size=4)))
        >>> crops.shape, ratio.shape, weight.shape
        (TensorShape([4, 64, 64, 3]), TensorShape([4]), TensorShape([4]))
        """
        from virtual_stain.api.crops import CropOptions, crops_with_ratio

        options = CropOptions(crop_px, batch_size, seed, min_cells, max_cells)
        change = config_of(None, settings).augment if augment else None
        return crops_with_ratio(self.folder, self.manifest, self._pairs(folds), options, change)

    def verify(self, progress: Tracker = None) -> None:
        """Compares every record with the manifest. Raises VerificationError, which lists the differences."""
        from virtual_stain.records.verify import verify_records

        verify_records(self.folder, progress_of(progress))

    def _pairs(self, folds: Sequence[int] | None) -> tuple[PairEntry, ...]:
        if len(self.markers) != 1:
            raise ConfigError(f"{self.folder}: expected records of one marker. Received: {', '.join(self.markers)}")
        if self.manifest.value_definition != ValueDefinition.POSITIVE_RATIO.value:
            raise ConfigError(
                f"{self.folder}: expected records of the positive ratio. Received: {self.manifest.value_definition}"
            )
        chosen = tuple(p for p in self.manifest.pairs if folds is None or p.fold in folds)
        if not chosen:
            known = sorted({p.fold for p in self.manifest.pairs})
            raise InputError(f"{self.folder}: expected folds among {known}. Received: {list(folds or [])}")
        return chosen


def build_records(
    pairs: PathLike,
    out: PathLike,
    *,
    verdicts: PathLike | None = None,
    accept_unreviewed: bool = False,
    config: PathLike | Config | None = None,
    settings: Settings = None,
    jobs: int = 1,
    force: bool = False,
    progress: Tracker = None,
) -> Records:
    """Makes records from pairs of slides, as `vstain build-records` does.

    Each pair is registered, its cells are counted, its tiles are labelled and packed.

    Parameters
    ----------
    pairs
        CSV with the columns `pair,patient,marker,he,ihc`, and optionally `he_mpp,ihc_mpp,fold,he_roi,ihc_roi`.
    out
        Folder of the records. A second call continues in it and keeps what would come out the same.
    verdicts
        CSV with the verdicts of people on tiles.
    accept_unreviewed
        Also take tiles that nobody has looked at. The manifest says so.
    config, settings
        A TOML file, and single settings that change it, such as `{"labels.n_folds": 5}`.
    jobs
        Number of processes. More than 1 needs a script with `if __name__ == "__main__":`.
    force
        Take over a folder that was made with other settings.
    progress
        A function that is called as (what, done, total), or True for a bar on stderr. None: quiet.

    Raises
    ------
    PairError, InputError, ConfigError, OutputError
        The table, a slide, a setting or the folder is wrong. Raised before any work.
    ReviewPendingError
        Tiles wait for the verdict of a person. Everything else is on disk.
    BatchError
        Some pairs failed. The records of the others are on disk.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> records = vs.build_records("pairs.csv", "built", accept_unreviewed=True)
    >>> records.markers, len(records) > 0
    (('ki67',), True)
    """
    options = BuildOptions(
        verdicts=None if verdicts is None else Path(verdicts),
        accept_unreviewed=accept_unreviewed,
        force=force,
        jobs=jobs,
    )
    result = build(Path(pairs), Path(out), config_of(config, settings), options, progress=progress_of(progress))
    return Records(Path(out), result.manifest)


def open_records(folder: PathLike) -> Records:
    """Opens a folder of records on this machine or in object storage (s3://bucket/folder).

    Raises
    ------
    InputError
        There is no manifest, or it cannot be read.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> vs.open_records("records").to_frame().columns[:3].tolist()
    ['pair', 'patient_id', 'fold']
    """
    place: Any = parse_location(str(folder))
    return Records(place, read_manifest(place))
