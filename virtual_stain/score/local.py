"""The bundle run in this process: the same graph that TF Serving runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from virtual_stain.errors import ModelError
from virtual_stain.export.bundle import verify_bundle
from virtual_stain.export.card import ModelCard, card_from_json, cells_key
from virtual_stain.score.predictor import Answers, Tiles


class LocalPredictor:
    """Loads a bundle after every file of it has been verified; fits `Predictor`."""

    def __init__(self, model: Path) -> None:
        """`model`: MODEL or MODEL/<version>. Raises ModelError, VerificationError."""
        bundle = verify_bundle(model)
        self.card: ModelCard = bundle.card
        self.sha256: str = bundle.sha256
        self._folder = bundle.folder
        try:
            self._model = tf.saved_model.load(str(bundle.folder))
            self._function = self._model.signatures["uint8"]
            answer = self._model.signatures["describe"](query=tf.constant([""]))
        except (tf.errors.OpError, OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{bundle.folder}: expected a SavedModel with the signatures uint8 and describe. "
                f"Received: {type(error).__name__}: {error}",
                hint="The files are those that were exported; check the versions: vstain doctor",
            ) from error
        described = card_from_json(json.loads(answer["card"].numpy()[0]), f"{bundle.folder}: describe")
        if described != self.card:
            raise ModelError(
                f"{bundle.folder}: expected the same model card in the graph and in bundle.json. "
                "Received: two different ones.",
                hint="Export the run again: vstain export RUN --out MODEL",
            )

    def predict(self, tiles: Tiles) -> Answers:
        """See `Predictor.predict`."""
        try:
            outputs = self._function(tiles=tf.constant(tiles))
        except tf.errors.ResourceExhaustedError as error:
            raise ModelError(
                f"{self._folder}: {len(tiles)} tiles at a time do not fit into the device's memory.",
                hint="Use fewer: --set scoring.batch_size=1",
            ) from error
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise ModelError(f"{self._folder}: the network failed on {tiles.shape}: {error}") from error
        names = [name for m in self.card.markers for name in (m.value, cells_key(m))]
        return {name: np.asarray(outputs[name].numpy(), np.float32) for name in names}
