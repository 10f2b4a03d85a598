"""`vstain records augmentations`: what the network sees in training, crop by crop, through the training's own code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from virtual_stain.config import Config
from virtual_stain.dataset.augment import augment
from virtual_stain.dataset.pipeline import TrainingOrder, training_batches
from virtual_stain.dataset.shards import reading_errors
from virtual_stain.files import make_folder, write_bytes
from virtual_stain.model.tile_reading import crops_per_side
from virtual_stain.records.manifest import read_manifest
from virtual_stain.remote import Location
from virtual_stain.training.inputs import crop_spec

_SHOWN_PX = 192
_GAP_PX, _TEXT_PX = 8, 20
_Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """Where the picture lies, and what is on it."""

    picture: Path
    crops: int
    versions: int


def write_contact_sheet(
    folder: Location, config: Config, out: Path, *, crops: int = 8, versions: int = 6
) -> ContactSheet:
    """A row a crop: as it was cut from the tile, then `versions` of it as the network gets them.

    Written below it: positive of tumour cells inside. The crops are those of the first training batch with the
    configuration's seed. Raises InputError, VerificationError, ConfigError, OutputError.
    """
    manifest = read_manifest(folder)
    crop_px = config.model.crop_px
    crops_per_side(manifest.tiling.tile_px, crop_px)
    spec = crop_spec(manifest, crop_px)
    order = TrainingOrder(
        batch_size=crops,
        seed=config.training.seed,
        shuffle_tiles=config.training.shuffle_tiles,
        augment=config.augment,
        sampling=config.training.sampling,
        balance=config.training.balance,
    )
    with reading_errors(folder):
        batch = next(iter(training_batches(folder, manifest.pairs, spec, order)))
    generator = np.random.default_rng(config.training.seed)
    columns = [batch["crop"].numpy()]
    for _ in range(versions):
        draws = generator.uniform(size=batch["draws"].shape).astype(np.float32)
        columns.append(augment(batch["crop"], tf.constant(draws), config.augment).numpy())
    positive, cells = (batch[name].numpy().sum(axis=1) for name in ("positive", "cells"))
    rows = []
    for i in range(crops):
        text = f"{batch['tile'][i].numpy().decode()}: {positive[i]:.0f} of {cells[i]:.0f} cells positive"
        rows.append(_row([column[i] for column in columns], text))
    make_folder(out.parent)
    _, data = cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    write_bytes(out, data.tobytes())
    return ContactSheet(out, crops, versions)


def _row(images: list[_Image], text: str) -> _Image:
    shown = max(_SHOWN_PX, images[0].shape[0])  # small crops are enlarged, large ones shown as they are
    cells = []
    for image in images:
        large = cv2.resize(image, (shown, shown), interpolation=cv2.INTER_NEAREST) if image.shape[0] < shown else image
        cells.append(np.pad(large, ((0, 0), (0, _GAP_PX), (0, 0)), constant_values=255))
        if len(cells) == 1:  # the first is the tile's own, apart from its versions
            cells.append(np.full((shown, 2 * _GAP_PX, 3), 255, np.uint8))
    label = np.full((_TEXT_PX, sum(c.shape[1] for c in cells), 3), 255, np.uint8)
    ascii_text = text.encode("ascii", "replace").decode()  # the font has no other letters
    cv2.putText(label, ascii_text, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.concatenate([np.concatenate(cells, axis=1), label]))
