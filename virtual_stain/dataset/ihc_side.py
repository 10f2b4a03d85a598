"""The IHC side of a training crop: from the JPEG of the tile to the densities of its two stains, per place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from virtual_stain.counting.quality import UNEXPLAINED
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import InputError
from virtual_stain.labels.label import BLUR_HE, BLUR_IHC, POOR_OVERLAP
from virtual_stain.records.ihc_shards import ENCODED, LABEL_ID, parse_ihc_example
from virtual_stain.records.manifest import PairEntry
from virtual_stain.records.read import as_written, shard_dataset
from virtual_stain.remote import Location

KEYS = ("label/id", "tile/pair", "tile/flags", "registration/error_median_um", "registration/error_p95_um")
"""What is parsed of every H&E record beside what its crop needs."""
PLACE_PX = 4
"""Side of a place, px: densities are means over places."""
_UNUSABLE = (BLUR_HE, BLUR_IHC, POOR_OVERLAP, UNEXPLAINED)
_HALF_WEIGHT_UM = 15.0  # median registration error at which a tile weighs half


@dataclass(frozen=True, slots=True, eq=False)
class IhcSide:
    """The stains of the pairs that are trained on."""

    pairs: tuple[str, ...]
    background: npt.NDArray[np.float32]
    """float32[P, 3]: log10 of the glass' colour + 1."""
    unmix: npt.NDArray[np.float32]
    """float32[P, 3, 2]: optical density (a row) × this = DAB (in cut-offs of positive) and haematoxylin (in typical
    nuclei)."""
    usable: npt.NDArray[np.float32]
    """float32[P]: 1 where the slide's two stains could be told apart, else 0."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Pairs whose densities teach nothing."""
        return tuple(name for name, usable in zip(self.pairs, self.usable, strict=True) if not usable)


def ihc_side(folder: Location, pairs: Sequence[PairEntry]) -> IhcSide:
    """Raises InputError where a pair has no IHC shards."""
    missing = [p.pair for p in pairs if p.ihc is None]
    stains = [p.ihc.stain for p in pairs if p.ihc is not None]
    if missing:
        raise InputError(
            f"{folder}: expected the IHC side of every pair. Received: {len(missing)} pairs without it ({missing[0]}).",
            hint="Pack it, which counts nothing again: vstain build-records … --set labels.keep_ihc=true",
        )
    return IhcSide(
        tuple(p.pair for p in pairs),
        np.log10(np.array([s.background for s in stains], np.float32) + 1),
        np.stack([_unmix(s) for s in stains]).astype(np.float32),
        np.array([s.colours_are_explained for s in stains], np.float32),
    )


def _unmix(stain: SlideStain) -> npt.NDArray[np.float64]:
    """float64[3, 2]. Each slide's densities are measured by its own scale: how strongly a laboratory stains is nothing
    that H&E can know."""
    normal = np.cross(stain.hematoxylin, stain.dab)
    inverse = np.linalg.inv(np.stack([stain.hematoxylin, stain.dab, normal / np.linalg.norm(normal)]))
    dab = inverse[:, 1] / stain.positive_od
    hematoxylin = inverse[:, 0] * sum(stain.hematoxylin) / stain.typical_od
    return np.stack([dab, hematoxylin], axis=1)


def both_sides(paths: tf.Tensor) -> tf.data.Dataset:
    """string[2], an H&E shard and its IHC shard → string[2], one record of both after the other."""
    sides = tf.data.Dataset.zip((shard_dataset(paths[0]), shard_dataset(paths[1])))
    return sides.map(as_written(lambda he, ihc: tf.stack([he, ihc])))


def densities_of_crop(
    side: IhcSide, record: dict[str, tf.Tensor], ihc: tf.Tensor, window: tf.Tensor, crop_px: int
) -> dict[str, tf.Tensor]:
    """{stain: float32[crop/4, crop/4, 2], DAB and haematoxylin; stain_weight, error_p95_um: float32[]} of a crop.

    `record`: of the H&E side, with `KEYS`; `ihc`: the serialized IHC tile; `window`: int32[4] (y, x, height, width).
    The graph raises InvalidArgumentError where the two are not of one label.
    """
    other = parse_ihc_example(ihc)
    same = tf.debugging.assert_equal(
        record["label/id"], other[LABEL_ID], "the IHC shard is not parallel to the H&E shard: label/id differs"
    )
    with tf.control_dependencies([same]):
        encoded = tf.identity(other[ENCODED])
    index = tf.argmax(tf.cast(tf.constant(side.pairs) == record["tile/pair"], tf.int32))
    crop = tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE")
    light = tf.image.resize(crop, (crop_px, crop_px), method="area")
    density = tf.maximum(
        tf.gather(side.background, index) - tf.math.log(light + 1.0) / tf.math.log(tf.constant(10.0)), 0.0
    )
    amounts = tf.tensordot(density, tf.gather(side.unmix, index), 1)
    places = tf.nn.avg_pool2d(amounts[None], PLACE_PX, PLACE_PX, "VALID")[0]
    spoilt = tf.reduce_any(record["tile/flags"][:, None] == tf.constant(_UNUSABLE)[None])
    weight = registration_weight(record["registration/error_median_um"]) * tf.gather(side.usable, index)
    return {
        "stain": tf.ensure_shape(places, (crop_px // PLACE_PX, crop_px // PLACE_PX, 2)),
        "stain_weight": tf.where(spoilt, 0.0, weight),
        "error_p95_um": record["registration/error_p95_um"],
    }


def registration_weight(error_median_um: tf.Tensor) -> tf.Tensor:
    """1 / (1 + (error / 15 µm)²), 0–1; 0 where the error is not known (NaN). Same shape."""
    weight = 1.0 / (1.0 + tf.square(error_median_um / _HALF_WEIGHT_UM))
    return tf.where(tf.math.is_finite(weight), weight, 0.0)
