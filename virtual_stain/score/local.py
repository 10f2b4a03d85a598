"""The bundle run in this process: the same graph that TF Serving runs, in float32 or, checked, in bfloat16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ModelError
from virtual_stain.export.bundle import verify_bundle
from virtual_stain.export.card import ModelCard, card_from_json, cells_key
from virtual_stain.score.bfloat16 import find_network, rename_functions, to_bfloat16
from virtual_stain.score.engine_check import acceptable, difference
from virtual_stain.score.hardware import multiplies_bfloat16
from virtual_stain.score.predictor import Answers, Tiles
from virtual_stain.score.signature import callable_signature, read_saved_model, signature_graph

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]
SIGNATURES = {"quadrants": "uint8", "center": "center_uint8"}


class LocalPredictor:
    """Loads a bundle after every file of it has been verified; fits `Predictor`."""

    in_flight = 1

    def __init__(self, model: Path, settings: ScoringSettings | None = None) -> None:
        """`model`: MODEL or MODEL/<version>. Raises ModelError, VerificationError."""
        settings = settings or ScoringSettings(precision="float32")
        bundle = verify_bundle(model)
        self.card: ModelCard = bundle.card
        self.sha256: str = bundle.sha256
        self._folder = bundle.folder
        name = SIGNATURES[settings.crops]
        self._graph: Any | None = None
        """The signature's graph, where its weights are constants."""
        try:
            self._meta: Any = read_saved_model(bundle.folder)
            self._graph = signature_graph(self._meta, name)
            describe = signature_graph(self._meta, "describe")
            if self._graph is None or describe is None:  # exported before the network was frozen
                self._model = tf.saved_model.load(str(bundle.folder))
                loaded, described_by = self._model.signatures[name], self._model.signatures["describe"]
                self._reference: Signature = lambda tiles: dict(loaded(tiles=tiles))
                answer = described_by(query=tf.constant([""]))
            else:
                for graph in (self._graph, describe):
                    rename_functions(graph, f"_{self.sha256[:16]}")  # another model's functions have the same names
                self._reference = callable_signature(self._meta, name, self._graph)
                answer = callable_signature(self._meta, "describe", describe)(tf.constant([""]))
        except (tf.errors.OpError, OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{bundle.folder}: expected a SavedModel with the signatures {name} and describe. "
                f"Received: {type(error).__name__}: {error}",
                hint="A bundle of an older version has no center signatures: export the run again. "
                "Otherwise check the versions: vstain doctor",
            ) from error
        described = card_from_json(json.loads(answer["card"].numpy()[0]), f"{bundle.folder}: describe")
        if described != self.card:
            raise ModelError(
                f"{bundle.folder}: expected the same model card in the graph and in bundle.json. "
                "Received: two different ones.",
                hint="Export the run again: vstain export RUN --out MODEL",
            )
        gpus = [d.name for d in tf.config.list_physical_devices("GPU")]
        # the reference is float32: newer GPUs would round its factors to 10 bits otherwise. TensorFlow knows it only
        # for the whole process.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.batch_size = 16 if gpus else 1  # a CPU is as fast with one tile, in a third of the memory of four
        self.engine: dict[str, Any] = {"name": "tensorflow", "precision": "float32", "device": "GPU" if gpus else "CPU"}
        self._crops = settings.crops
        self._function: Signature = self._reference
        self._fast = self._in_bfloat16(settings.precision)
        self._meta = None  # the file's weights once more

    def predict(self, tiles: Tiles) -> Answers:
        """See `Predictor.predict`."""
        return self._run(self._function, tiles)

    def check(self, tiles: Tiles | None) -> dict[str, Any]:
        """Decides for the tiles' slide: bfloat16 where its readings are the reference's, else float32."""
        self._function = self._reference
        facts = self.engine | {"precision": "float32"}
        if self._fast is not None and tiles is not None:
            found = difference(self._in_parts(self._reference, tiles), self._in_parts(self._fast, tiles))
            facts |= {"checked_tiles": len(tiles), "largest_difference": found["tile"]}
            if acceptable(found):
                self._function = self._fast
                facts["precision"] = "bfloat16"
        return facts

    def _in_bfloat16(self, precision: str) -> Signature | None:
        """The signature with its network in bfloat16; None where it is not wanted or has no convolution."""
        wanted = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16())
        if not wanted or self._graph is None or find_network(self._graph) is None:
            return None
        graph = type(self._graph)()
        graph.CopyFrom(self._graph)
        network = find_network(graph)
        assert network is not None
        network.CopyFrom(to_bfloat16(network))
        rename_functions(graph, "_bfloat16")
        return callable_signature(self._meta, SIGNATURES[self._crops], graph)

    def _in_parts(self, function: Signature, tiles: Tiles) -> Answers:
        """The answers to more tiles than suit the device at a time."""
        size = self.batch_size
        parts = [self._run(function, tiles[i : i + size]) for i in range(0, len(tiles), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, function: Signature, tiles: Tiles) -> Answers:
        try:
            outputs = function(tf.constant(tiles))
        except tf.errors.ResourceExhaustedError as error:
            raise ModelError(
                f"{self._folder}: {len(tiles)} tiles at a time do not fit into the device's memory.",
                hint="Use fewer: --set scoring.batch_size=1",
            ) from error
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise ModelError(f"{self._folder}: the network failed on {tiles.shape}: {error}") from error
        names = [name for m in self.card.markers for name in (m.value, cells_key(m))]
        return {name: np.asarray(outputs[name].numpy(), np.float32) for name in names}
