"""A trained network as a SavedModel bundle: bytes or uint8 in, readings out, the same graph locally and served.

Signatures, all answering dicts with stable names:

    serving_default   image_bytes: string[B], JPEG or PNG of a whole tile → {name: float32[B]} for `ModelCard.outputs`
    uint8             tiles: uint8[B, T, T, 3] RGB, checked in the graph  → the same
    virtual           windows: uint8[B, h, w, 3] RGB, sides multiples of 16 → the generator's maps by name, float32
                      [B, h/4, w/4]; in bundles of the indirect path alone
    describe          query: string[B], any text                          → {"card": string[B]}, the model card as JSON
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from virtual_stain.config.tiling import TilingSettings
from virtual_stain.errors import ModelError, OutputError
from virtual_stain.exporting.bundle import versions, write_bundle_json
from virtual_stain.exporting.card import ModelCard, model_name
from virtual_stain.exporting.evaluation import HeldOut, exported_run, held_out
from virtual_stain.exporting.inference_graph import freeze_maps, freeze_network
from virtual_stain.exporting.model_card import MODEL_CARD, model_card_text
from virtual_stain.exporting.serving import prediction_log, write_serving_files
from virtual_stain.exporting.weights_apart import Weights, put_back
from virtual_stain.files import folder_lock, output_errors, write_text
from virtual_stain.markers import CELLS, ValueDefinition, parse_marker
from virtual_stain.model.tile_reading import tile_maps, tile_reading
from virtual_stain.patients import existing_key, keyed_slides
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord, refuse_foreign_run, software_versions
from virtual_stain.training.run_dir import load_run

_log = logging.getLogger("vstain.export")

TileReading = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
"""tiles uint8[B, T, T, 3] → {name: float32[B]} for `ModelCard.outputs`, in graph operations."""

WARMUP = "assets.extra/tf_serving_warmup_requests"


def export_run(
    run_dir: Path,
    out: Path,
    *,
    version: int | None = None,
    name: str | None = None,
    seal: Callable[[Path], None] | None = None,
    progress: Progress = QUIET,
) -> Path:
    """The best weights of a training run as the next version of the model `out`; returns the version's folder.

    `run_dir`: a run, or the folder of a cross-validation, of which fold 0 is taken with the interval of all folds.
    `name`: for TF Serving, default the name of `out`. `seal`: see `write_bundle`.
    Raises InputError, ModelError, OutputError, ConfigError.
    """
    run_dir = exported_run(run_dir)
    run = load_run(run_dir)
    for sentence in run.data.get("equal_labels") or ():
        _log.warning("%s: %s", run_dir, sentence)
    key = existing_key()
    fingerprint = str(run.card["patient_key_fingerprint"])
    slides = keyed_slides(run.card["training_slide_hashes"], fingerprint, key)
    if not slides:
        progress.say(
            "The patient key that the records were built with is not on this machine: the bundle will not know its "
            "training slides, and `vstain score` cannot warn about them."
        )
    evaluated = held_out(run_dir)
    card = _run_card(run.card, evaluated, name or model_name(out), slides)
    refuse_foreign_run(out, "export")
    network = freeze_network(lambda crops: run.model(crops, training=False), card.crop_px, weights_apart=True)

    def reading(tiles: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return tile_reading(network, tiles, card.value_definition, card.crop_weights)

    dense = run.network.dense
    maps = None if dense is None else (lambda tiles: tile_maps(dense, tiles))
    variables = [] if dense is None else [v.value for v in dense.variables]
    generator = run.network.generator
    windows = None if generator is None else freeze_maps(lambda pixels: generator(pixels, training=False))
    folder = write_bundle(
        reading, variables, card, out,
        maps=maps, windows=windows, weights=network.weights, version=version, seal=seal,
    )  # fmt: skip
    record = RunRecord("export", extra={"run": str(run_dir), "version": int(folder.name), "training": card.training})
    record.write(out, tensorflow=True)
    return folder


def _run_card(facts: Mapping[str, Any], evaluated: HeldOut, name: str, training_slides: tuple[str, ...]) -> ModelCard:
    thresholds, tiling = facts["thresholds"], facts["tiling"]
    return ModelCard(
        name=name,
        version=1,
        markers=tuple(parse_marker(m) for m in facts["markers"]),
        value_definition=ValueDefinition(facts["value_definition"]),
        tiling=TilingSettings(
            window_um=float(tiling["window_um"]), tile_px=int(tiling["tile_px"]), stride_um=tiling["stride_um"]
        ),
        crop_px=int(facts["crop_px"]),
        crop_weights=str(facts["crop_weights"]),
        min_tissue_fraction=float(thresholds["min_tissue_fraction"]),
        min_tumour_cells=float(thresholds["min_tumour_cells"]),
        patient_key_fingerprint=str(facts["patient_key_fingerprint"]),
        training_slides=training_slides,
        training=dict(facts["training"]) | {"evaluation": evaluated.figures},
        intervals=evaluated.intervals,
        training_range=facts["training_range"],
        software=software_versions(tensorflow=True),
    )


def write_bundle(
    reading: TileReading,
    variables: Sequence[tf.Variable],
    card: ModelCard,
    out: Path,
    *,
    maps: TileReading | None = None,
    windows: TileReading | None = None,
    weights: Weights = MappingProxyType({}),
    version: int | None = None,
    seal: Callable[[Path], None] | None = None,
) -> Path:
    """Writes `out`/<version> and `out`/serving; returns the version's folder.

    `version`: default the next free one; an existing one is never overwritten (`card.version` is replaced).
    `variables`: every variable that `reading` and `maps` use. `weights`: what `reading` was traced without
    (`FrozenNetwork.weights`). `maps`: tiles → a value per place, for the signature dense_uint8. `windows`: of the
    generator, for the signature virtual. `seal`: called with
    the folder when bundle.json is written and before the version appears, to sign it. The bundle is written beside
    its place and renamed when it is whole. Raises OutputError, ModelError (the network does not answer what the card
    says, or weights are missing).
    """
    with folder_lock(out), output_errors(out):
        existing = versions(out)
        number = (max(existing, default=0) + 1) if version is None else version
        target, temporary = out / str(number), out / f".new-{number}"
        if target.exists():
            raise OutputError(
                f"{target}: this version exists, and versions are never overwritten.",
                hint=f"Leave --version out for the next free one, {max(existing, default=0) + 1}.",
            )
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        try:
            final = dataclasses.replace(card, version=number)
            _save(reading, variables, final, temporary, maps, windows)
            put_back(temporary, weights)
            _write_warmup(final, temporary)
            write_text(temporary / MODEL_CARD, model_card_text(final))
            _sync(temporary)
            write_bundle_json(temporary, final)
            if seal is not None:
                seal(temporary)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        write_serving_files(out, card.name)
    return target


def _save(
    reading: TileReading,
    variables: Sequence[tf.Variable],
    card: ModelCard,
    folder: Path,
    maps: TileReading | None = None,
    windows: TileReading | None = None,
) -> None:
    names = card.outputs
    side = card.tiling.tile_px
    text = json.dumps(card.to_json(), ensure_ascii=False, sort_keys=True, allow_nan=False)
    module = tf.Module()
    module.used_variables = list(variables)  # what the graphs capture must be saved with them

    # one function in the file for both ways in: half the size, half the time to load
    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8)], autograph=False)
    def answer(tiles: tf.Tensor) -> dict[str, tf.Tensor]:
        return _checked(reading(tiles), names)

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8)], autograph=False)
    def answer_center(tiles: tf.Tensor) -> dict[str, tf.Tensor]:
        first, crop = (side - card.crop_px) // 2, card.crop_px
        outputs = _checked(reading(tiles[:, first : first + crop, first : first + crop]), names)
        share = (side / crop) ** 2  # thresholds and sums count the cells of a whole tile
        return {n: v * share if n.endswith(CELLS) else v for n, v in outputs.items()}

    module.functions = [describe := _describe(text)]
    signatures = {"describe": describe.get_concrete_function()}
    for from_bytes, from_uint8, function in (
        ("serving_default", "uint8", answer),
        ("center", "center_uint8", answer_center),
    ):
        ways = _ways_in(function, side, card.tiling.tile_mpp)
        module.functions += ways
        signatures |= {n: w.get_concrete_function() for n, w in zip((from_bytes, from_uint8), ways, strict=True)}
    if maps is not None:

        @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8, name="tiles")], autograph=False)
        def dense_uint8(tiles: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return maps(tiles)

        module.functions.append(dense_uint8)
        signatures["dense_uint8"] = dense_uint8.get_concrete_function()
    if windows is not None:
        spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="windows")

        @tf.function(input_signature=[spec], autograph=False)
        def virtual(pixels: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return windows(pixels)

        module.functions.append(virtual)
        signatures["virtual"] = virtual.get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _checked(outputs: Mapping[str, tf.Tensor], names: Sequence[str]) -> dict[str, tf.Tensor]:
    if set(outputs) != set(names):
        raise ModelError(f"expected a network that answers {list(names)}. Received: {sorted(outputs)}")
    return {name: tf.cast(tf.reshape(outputs[name], [-1]), tf.float32) for name in names}


def _describe(text: str) -> Any:
    # an input of its own length: a batching server joins requests along it, and none may come without an input
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")], autograph=False)
    def describe(query: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"card": tf.fill(tf.shape(query), tf.constant(text))}

    return describe


def _ways_in(answer: Any, side: int, mpp: float) -> list[Any]:
    """The same answer to encoded tiles and to pixels."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        # on a GPU server the decoder has no kernel and the whole loop must say so
        with tf.device("/CPU:0"):
            tiles = tf.map_fn(
                lambda data: _decode(data, side, mpp),
                image_bytes,
                fn_output_signature=tf.TensorSpec([side, side, 3], tf.uint8),
            )
        outputs: dict[str, tf.Tensor] = answer(tiles)
        return outputs

    # a size in the signature would be a promise that nobody checks: TensorFlow feeds other sizes without a word
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="tiles")], autograph=False)
    def from_uint8(tiles: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = answer(_require_size(tiles, [None, side, side, 3], mpp))
        return outputs

    return [from_bytes, from_uint8]


def _decode(data: tf.Tensor, side: int, mpp: float) -> tf.Tensor:
    """JPEG or PNG bytes → uint8[side, side, 3]."""
    # the accurate inverse DCT is what libjpeg uses elsewhere; TensorFlow's own default is the fast one
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return _require_size(image, [side, side, 3], mpp)


def _require_size(image: tf.Tensor, shape: list[int | None], mpp: float) -> tf.Tensor:
    """The same pixels, or an error in the graph: another size is never resized, for nuclei have a size."""
    side, received = shape[-2], tf.shape(image)
    message = f"Expected tiles of {side} × {side} px at {mpp:g} µm/px; they are not resized. Received:"
    right = tf.reduce_all(received[-3:] == [side, side, 3])
    with tf.control_dependencies([tf.debugging.Assert(right, [message, received])]):
        image = tf.identity(image)
    image.set_shape(shape)  # a run-time check of the shape here would come first and hide the sentence above
    return image


def _write_warmup(card: ModelCard, folder: Path) -> None:
    """One request to every signature: the server builds its graphs before the first client waits for them."""
    path = folder / WARMUP
    path.parent.mkdir(parents=True)
    side = card.tiling.tile_px
    pattern = np.add.outer(np.arange(side), np.arange(side)) % 64
    tile = np.stack([230 - pattern, 170 - pattern, 210 - pattern], axis=-1).astype(np.uint8)  # not padding, not glass
    encoded = tf.constant([tf.io.encode_jpeg(tile, quality=95).numpy()])
    requests = {
        "serving_default": {"image_bytes": encoded},
        "uint8": {"tiles": tf.constant(tile[None])},
        "center": {"image_bytes": encoded},
        "center_uint8": {"tiles": tf.constant(tile[None])},
        "describe": {"query": tf.constant([b""])},
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            tensors = {k: tf.make_tensor_proto(v).SerializeToString() for k, v in inputs.items()}
            writer.write(prediction_log(card.name, signature, tensors))


def _sync(folder: Path) -> None:
    """Everything on the disk before the rename makes it a version."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
