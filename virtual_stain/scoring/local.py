"""The bundle run in this process: the same graph that TF Serving runs, in float32 or, checked, in bfloat16."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ModelError
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.exporting.card import card_from_json
from virtual_stain.files import parse_json
from virtual_stain.scoring.allowed_operations import require_allowed
from virtual_stain.scoring.bfloat16 import find_network, multiplies_bfloat16, to_bfloat16
from virtual_stain.scoring.engine_check import acceptable, difference
from virtual_stain.scoring.predictor import MAPS, Answers, Predictor, Tiles
from virtual_stain.scoring.signature import Signature, callable_signatures, read_saved_model, signature_graph
from virtual_stain.scoring.start_tensorflow import calls_at_once

SIGNATURES = {"quadrants": "uint8", "center": "center_uint8"}


class LocalPredictor(Predictor):
    """Loads a bundle after every file of it has been verified."""

    compares_engines = True
    _keeps_network = False  # its weights once more

    def __init__(self, model: Path, settings: ScoringSettings | None = None) -> None:
        """`model`: MODEL or MODEL/<version>. Raises ModelError, VerificationError."""
        settings = settings or ScoringSettings(precision="float32")
        bundle = verify_bundle(model)
        self.card = bundle.card
        self.sha256 = bundle.sha256
        self._folder = bundle.folder
        name = SIGNATURES[settings.crops]
        self._maps: Signature | None = None
        self._network: Any | None = None
        """The network's function, where its weights are constants."""
        self._fast: Signature | None = None
        self._fast_compared: Signature | None = None
        try:
            meta = read_saved_model(bundle.folder)
            require_allowed(meta, str(bundle.folder))
            compared = SIGNATURES["center"] if SIGNATURES["center"] in meta.signature_def else name
            graph = signature_graph(meta, name, compared, "describe")
            if graph is None:  # exported before the network was frozen
                self._model = tf.saved_model.load(str(bundle.folder))
                found = {n: _eager(self._model.signatures[n]) for n in (name, compared)}
                answer = self._model.signatures["describe"](query=tf.constant([""]))
            else:
                self._network = find_network(graph) if self._keeps_network else None
                fast = self._in_bfloat16(graph, settings.precision)
                found = callable_signatures(meta, graph, name, compared, "describe")
                answer = found["describe"](tf.constant([""]))
                if fast is not None:
                    fast_found = callable_signatures(meta, fast, name, compared)
                    self._fast, self._fast_compared = fast_found[name], fast_found[compared]
            self._reference, self._reference_compared = found[name], found[compared]
        except (tf.errors.OpError, OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{bundle.folder}: expected a SavedModel with the signatures {name} and describe. "
                f"Received: {type(error).__name__}: {error}",
                hint="A bundle of an older version has no center signatures: export the run again. "
                "Otherwise check the versions: vstain doctor",
            ) from error
        told = parse_json(answer["card"].numpy()[0], f"{bundle.folder}: describe: expected a model card")
        described = card_from_json(told, f"{bundle.folder}: describe") if isinstance(told, dict) else None
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
        self.in_flight = calls_at_once()
        self.engine: dict[str, Any] = {"name": "tensorflow", "precision": "float32", "device": "GPU" if gpus else "CPU"}
        self._function: Signature = self._reference

    def predict(self, tiles: Tiles) -> Answers:
        """See `Predictor.predict`."""
        return self._run(self._function, tiles)

    def maps(self, windows: Tiles) -> Answers:
        """See `Predictor.maps`: always in float32, by TensorFlow."""
        try:
            if self._maps is None:
                meta = read_saved_model(self._folder)
                graph = signature_graph(meta, MAPS)
                if graph is None:
                    raise ValueError("its generator has variables")
                self._maps = callable_signatures(meta, graph, MAPS)[MAPS]
            outputs = self._maps(tf.constant(windows))
        except (KeyError, ValueError, OSError) as error:
            raise ModelError(
                f"{self._folder}: expected a bundle with the signature {MAPS}. Received: {error}",
                hint="An older bundle of the indirect path has none: export the run again.",
            ) from error
        except tf.errors.OpError as error:
            raise ModelError(f"{self._folder}: the generator failed on {windows.shape}: {error}") from error
        return {name: np.asarray(values.numpy(), np.float32) for name, values in outputs.items()}

    def check(self, tiles: Tiles | None) -> dict[str, Any]:
        """Decides for the tiles' slide: bfloat16 where its readings are the reference's, else float32."""
        self._function = self._reference
        facts = self.engine | {"precision": "float32"}
        if self._fast is not None and self._fast_compared is not None and tiles is not None:
            parts = self._in_parts(tiles, self._reference_compared, self._fast_compared)
            found = difference(parts[0], parts[1], self.card.value_definition)
            facts |= {"checked_tiles": len(tiles), "largest_difference": found["value"]}
            if acceptable(found):
                self._function = self._fast
                facts["precision"] = "bfloat16"
        return facts

    def _in_bfloat16(self, graph: Any, precision: str) -> Any | None:
        """The graph with its network in bfloat16; None where that is not wanted or there is no convolution."""
        wanted = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16())
        if not wanted or find_network(graph) is None:
            return None
        result = type(graph)()
        result.CopyFrom(graph)
        for function in result.library.function:  # all of them: what is compared must be what reads
            if any(n.op == "Conv2D" for n in function.node_def):
                function.CopyFrom(to_bfloat16(function))
        return result

    def _in_parts(self, tiles: Tiles, *functions: Signature) -> list[Answers]:
        """Each function's answers. More tiles than suit the device at a time: as many crops a call as in a reading."""
        size = self.batch_size * (self.card.tiling.tile_px // self.card.crop_px) ** 2
        parts = [tiles[i : i + size] for i in range(0, len(tiles), size)]
        # on a CPU two at once in any case: the first call of a function is prepared by one core
        with ThreadPoolExecutor(1 if self.engine["device"] == "GPU" else max(2, self.in_flight)) as pool:
            calls = [[pool.submit(self._run, f, part) for f in functions] for part in parts]
            found = [[call.result() for call in part] for part in calls]
        return [
            {name: np.concatenate([part[i][name] for part in found]) for name in found[0][i]}
            for i in range(len(functions))
        ]

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
        return {name: np.asarray(outputs[name].numpy(), np.float32) for name in self.card.outputs}


def _eager(signature: Any) -> Signature:
    return lambda tiles: dict(signature(tiles=tiles))
