"""The bundle run in this process: the same graph that TF Serving runs, in float32 or, checked, in bfloat16."""

from __future__ import annotations

import json
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
        try:
            self._model = tf.saved_model.load(str(bundle.folder))
            self._reference = self._model.signatures[name]
            answer = self._model.signatures["describe"](query=tf.constant([""]))
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
        self.batch_size = 16 if gpus else 1  # a CPU is as fast with one tile, in a third of the memory of four
        self.engine: dict[str, Any] = {"name": "tensorflow", "precision": "float32", "device": "GPU" if gpus else "CPU"}
        self._function: Any = self._reference
        self._fast = self._in_bfloat16(settings.precision)

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

    def _in_bfloat16(self, precision: str) -> Any | None:
        """The signature with its network in bfloat16; None where it is not wanted or has no convolution."""
        wanted = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16())
        # exported before the network was frozen: its weights are not in the graph
        wanted = wanted and not self._reference.captured_inputs
        graph = self._reference.graph.as_graph_def() if wanted else None
        network = None if graph is None else find_network(graph)
        if graph is None or network is None:
            return None
        network.CopyFrom(to_bfloat16(network))
        rename_functions(graph, f"_bfloat16_{self.sha256[:16]}")
        names = sorted(self._reference.structured_outputs)  # the order in which tf.nest flattens a dict
        outputs = [tensor.name for tensor in self._reference.outputs]
        source = self._reference.inputs[0].name
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        element = wrapped.graph.as_graph_element
        pruned = wrapped.prune(element(source), [element(o) for o in outputs])
        return lambda tiles: dict(zip(names, pruned(tiles), strict=True))

    def _in_parts(self, function: Any, tiles: Tiles) -> Answers:
        """The answers to more tiles than suit the device at a time."""
        size = self.batch_size
        parts = [self._run(function, tiles[i : i + size]) for i in range(0, len(tiles), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, function: Any, tiles: Tiles) -> Answers:
        try:
            outputs = function(tiles=tf.constant(tiles))
        except tf.errors.ResourceExhaustedError as error:
            raise ModelError(
                f"{self._folder}: {len(tiles)} tiles at a time do not fit into the device's memory.",
                hint="Use fewer: --set scoring.batch_size=1",
            ) from error
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise ModelError(f"{self._folder}: the network failed on {tiles.shape}: {error}") from error
        names = [name for m in self.card.markers for name in (m.value, cells_key(m))]
        return {name: np.asarray(outputs[name].numpy(), np.float32) for name in names}
