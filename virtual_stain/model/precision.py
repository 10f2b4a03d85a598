"""In which number format the network multiplies; weights, outputs and losses are float32 always."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

_CPU_INFO = Path("/proc/cpuinfo")
_AMPERE = 8  # first NVIDIA generation with bfloat16 units


def resolve_precision(setting: str, cpu_info: Path = _CPU_INFO) -> str:
    """`auto` → "mixed_bfloat16" where the device multiplies bfloat16 in hardware, else "float32"; others as they are.

    A processor without AMX emulates bfloat16 and is slower with it than without.
    """
    if setting != "auto":
        return setting
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability[0] >= _AMPERE else "float32"
    try:
        flags = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "float32"  # not Linux: nothing is known about the processor
    return "mixed_bfloat16" if "amx_bf16" in flags else "float32"


@contextlib.contextmanager
def layers_in(precision: str) -> Iterator[None]:
    """Layers built inside compute in `precision`.

    `keras.applications` takes no dtype, so Keras' global policy is the only way in; it is put back on leaving.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
