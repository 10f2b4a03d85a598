"""How tiles are usually trained, beside this project's way: same patients, same tiles, same processor time.

Called by `bench_recipes.py peers`. Two usual ways, both with Keras' own InceptionV3 from random weights and Keras' own
`fit` (Adam 1e-3, mirrors and quarter turns), on whole tiles of 299 px:

- `mean squared error`: one sigmoid, fitted to the tile's ratio.
- `classifier`: one sigmoid, cross-entropy with "above the cut-off". The class is the slide's, as slideflow trains, or
  the tile's own, which is kinder. The probability is the reading; it is no ratio, so it has no error in points.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

SIDE_PX = 299


def usual_tiles(records: Path, pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(uint8[N, 299, 299, 3], ratio float32[N], pair str[N]) of the tiles whose ratio is a label."""
    import cv2

    from virtual_stain.labels.jpeg import decode_jpeg
    from virtual_stain.records.read import iterate_shard

    pictures, ratios, names = [], [], []
    for pair in pairs:
        for shard in pair.shards:
            for record in iterate_shard(records / shard.file):
                if record["label/weight"] > 0:
                    tile = decode_jpeg(record["image/encoded"])
                    pictures.append(cv2.resize(tile, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
                    ratios.append(record["label/positive"] / (record["label/positive"] + record["label/negative"]))
                    names.append(pair.pair)
    return np.stack(pictures), np.array(ratios, np.float32), np.array(names)


def fit_usual(pictures: np.ndarray, targets: np.ndarray, loss: str, seconds: float, batch: int = 8):
    """(the model, its steps): Keras' `fit` for so many processor seconds."""
    import keras
    import tensorflow as tf

    class Stop(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.began, self.steps = time.process_time(), 0

        def on_train_batch_end(self, step, logs=None):
            self.steps += 1
            if time.process_time() - self.began > seconds:
                self.model.stop_training = True  # ends the epoch after this batch

    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIDE_PX, SIDE_PX, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(1e-3), loss=loss)

    def turned(picture, target):
        picture = tf.image.rot90(tf.image.random_flip_left_right(picture), tf.random.uniform((), 0, 4, tf.int32))
        return tf.ensure_shape(picture, (SIDE_PX, SIDE_PX, 3)), target

    data = tf.data.Dataset.from_tensor_slices((pictures, targets[:, None])).shuffle(len(pictures)).repeat()
    stop = Stop()
    model.fit(data.map(turned).batch(batch), steps_per_epoch=10**6, epochs=1, verbose=0, callbacks=[stop])
    return model, stop.steps


def usual_figures(records: Path, test: Path, cut_off: float, seconds: float) -> list[str]:
    """A line for each of the three usual ways."""
    from virtual_stain.records.manifest import read_manifest

    pictures, ratios, names = usual_tiles(records, [p for p in read_manifest(records).pairs if p.fold > 1])
    unseen, truth, patients = usual_tiles(test, read_manifest(test).pairs)
    slide = {name: ratios[names == name].mean() for name in np.unique(names)}
    of_slide = np.array([slide[name] > cut_off for name in names], np.float32)
    ways = (
        ("mean squared error on whole tiles", ratios, "mse", True),
        ("classifier, class of the slide", of_slide, "binary_crossentropy", False),
        ("classifier, class of the tile", (ratios > cut_off).astype(np.float32), "binary_crossentropy", False),
    )
    lines = []
    for name, targets, loss, is_ratio in ways:
        model, steps = fit_usual(pictures, targets, loss, seconds)
        read = model.predict(unseen, batch_size=16, verbose=0)[:, 0].astype(np.float64)
        lines.append(f"{name:36} {usual_sentence(read, truth, patients, is_ratio)}, {steps} steps of 8 tiles")
        print(lines[-1], flush=True)
    return lines


def usual_sentence(read: np.ndarray, truth: np.ndarray, patients: np.ndarray, is_ratio: bool) -> str:
    """r within a patient, pooled, and of a ratio the errors."""
    from virtual_stain.training.metrics import pearson

    each = [pearson(truth[patients == p], read[patients == p]) or 0.0 for p in np.unique(patients)]
    text = f"r within {np.mean(each):.2f} (lowest {min(each):.2f}), pooled {pearson(truth, read) or 0:.2f}"
    if is_ratio:
        slides = [abs(float((read - truth)[patients == p].mean())) for p in np.unique(patients)]
        text += f"; tile error {100 * np.abs(read - truth).mean():.1f}, slide error {100 * np.mean(slides):.1f} points"
    return text
