"""The bundle's network on OpenVINO (extra): the same graph, another engine; checked against TensorFlow on every slide.

OpenVINO's defaults are set on purpose: the precision (it would take bfloat16 wherever the processor has it, silently)
and the mode: one crop a call and one thread a call, as many calls at once as there are cores. Threads that share a call
wait for each other at every layer, which costs a sixth of their time (docs/performance.md); its throughput mode would
serve a single caller with a part of the cores.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, ModelError
from virtual_stain.markers import CELLS, cells_of
from virtual_stain.parallel import available_cores
from virtual_stain.scoring.bfloat16 import multiplies_bfloat16
from virtual_stain.scoring.engine_check import acceptable, difference
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.scoring.predictor import Answers, Tiles

_PADDING_MIN = 253  # as in model.tile_reading, which defines a tile's reading; a test compares the two


class OpenVinoPredictor(LocalPredictor):
    """`LocalPredictor` whose network is compiled by OpenVINO; the TensorFlow graph stays as the reference."""

    _keeps_network = True

    def __init__(self, model: Path, settings: ScoringSettings) -> None:
        """Raises ConfigError (extra missing), ModelError, VerificationError."""
        try:
            import openvino
        except ImportError:
            raise ConfigError(
                "scoring.engine = openvino: OpenVINO is not installed.", hint="pip install 'virtual-stain[openvino]'"
            ) from None
        super().__init__(model, ScoringSettings(precision="float32", crops=settings.crops))
        wants = settings.precision == "bfloat16" or (settings.precision == "auto" and multiplies_bfloat16())
        self._precision = "bfloat16" if wants else "float32"
        self._centre = settings.crops == "center"
        self._streams = available_cores()
        self.in_flight = 2  # the second call fills the cores that the last crops of the first leave idle
        self.batch_size = -(-self._streams * self.card.crop_px**2 // self.card.tiling.tile_px**2)
        self._compiled = self._compile(openvino)
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix="openvino")
        self._own = threading.local()
        self.engine = {"name": "openvino", "precision": self._precision, "device": "CPU"}
        self._openvino_reads = True

    def predict(self, tiles: Tiles) -> Answers:
        """See `Predictor.predict`."""
        return self._on_openvino(tiles, self._centre) if self._openvino_reads else super().predict(tiles)

    def check(self, tiles: Tiles | None) -> dict[str, Any]:
        """OpenVINO reads the slide where its readings are TensorFlow's; otherwise TensorFlow in float32 does."""
        self._openvino_reads = True
        if tiles is None:
            return self.engine
        (reference,) = self._in_parts(tiles, self._reference_compared)
        found = difference(reference, self._on_openvino(tiles, True), self.card.value_definition)
        facts = self.engine | {"checked_tiles": len(tiles), "largest_difference": found["value"]}
        if not acceptable(found):
            self._openvino_reads = False
            facts |= {"name": "tensorflow", "precision": "float32"}
        return facts

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _compile(self, openvino: Any) -> Any:
        if self._network is None:
            raise ModelError(
                f"{self._folder}: expected a bundle with a frozen network. Received: one of an older version.",
                hint="Export the run again: vstain export RUN --out MODEL",
            )
        graph = function_def_to_graph(self._network)
        self._network = None
        model = openvino.convert_model(graph)
        model.reshape([1, self.card.crop_px, self.card.crop_px, 3])
        by_name = {name: i for i, output in enumerate(model.outputs) for name in output.get_names()}
        # the network's outputs stand in the order of their names, see `inference_graph`
        self._positions = [by_name[tensor.name] for tensor in graph.outputs]
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self._precision == "bfloat16" else "f32",
            "NUM_STREAMS": str(self._streams),
            "INFERENCE_NUM_THREADS": str(self._streams),
        }
        return openvino.Core().compile_model(model, "CPU", settings)

    def _on_openvino(self, tiles: Tiles, centre: bool) -> Answers:
        side, crop = self.card.tiling.tile_px, self.card.crop_px
        if centre:
            first = (side - crop) // 2
            crops, per_tile = tiles[:, first : first + crop, first : first + crop], 1
        else:
            crops, per_tile = crop_grid(tiles, crop), (side // crop) ** 2
        found = np.array(list(self._pool.map(self._read_crop, crops)))
        shown = (crops.reshape(len(crops), -1).min(axis=1) < _PADDING_MIN).reshape(-1, per_tile)
        names = sorted(self.card.outputs)
        cells_at = {n: p for n, p in zip(names, self._positions, strict=True) if n.endswith(CELLS)}
        result: Answers = {}
        for name, position in zip(names, self._positions, strict=True):
            values = found[:, position].reshape(-1, per_tile)
            weights = shown.astype(np.float64)
            if self.card.crop_weights == "cells" and self.card.value_definition.is_ratio and name not in cells_at:
                weights = np.where(shown, found[:, cells_at[cells_of(name)]].reshape(-1, per_tile), 0.0)
            total = np.where(shown, weights * values, 0.0).sum(axis=1)
            if name in cells_at:
                total *= (side / crop) ** 2 if centre else 1.0
            else:
                with np.errstate(invalid="ignore"):
                    total = total / weights.sum(axis=1)  # 0 / 0 is NaN on purpose: there is no reading
            result[name] = total.astype(np.float32)
        return result

    def _read_crop(self, crop: npt.NDArray[np.uint8]) -> list[float]:
        """The network's outputs, in OpenVINO's order, of uint8[C, C, 3]."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        request = self._own.request
        request.infer([np.ascontiguousarray(crop[None])])
        return [float(request.get_output_tensor(i).data.reshape(())) for i in range(len(self._compiled.outputs))]


def crop_grid(tiles: Tiles, crop: int) -> npt.NDArray[np.uint8]:
    """uint8[B, T, T, 3] → uint8[B·g², crop, crop, 3], per tile row by row: `model.tile_reading.crop_grid` in numpy."""
    g = tiles.shape[1] // crop
    blocks = tiles.reshape(-1, g, crop, g, crop, 3).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(-1, crop, crop, 3)
