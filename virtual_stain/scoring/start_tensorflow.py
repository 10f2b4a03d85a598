"""TensorFlow as reading slides wants it: without Keras, and with a thread for each call of the network.

Reading a frozen network needs no training library, and importing it costs a second.

`import tensorflow` ends with importing Keras' optimizers (and with them matplotlib's pyplot and scikit-learn), from the
package that TF_USE_LEGACY_KERAS chooses; where that package is not installed it goes without. The variable is set for
this import alone: Keras can still be imported afterwards, and is then version 3 as always.

Threads that share a call of the network wait for each other at every layer, spinning, and the more so where threads
that read tiles take a core away in between. So a core gets a call of its own, and several calls run at once
(docs/performance.md). TensorFlow can be told so only before it has done anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys

from virtual_stain.parallel import available_cores

_LEGACY = "TF_USE_LEGACY_KERAS"
_THREADS = "TF_NUM_INTRAOP_THREADS"
_MAX_CALLS = 4  # each call holds what lies between the layers, 0.4 GB a tile of 1024 px in bfloat16, 0.9 in float32


def start_tensorflow() -> None:
    """Imports TensorFlow and divides the cores between calls, unless something else has."""
    if "tensorflow" not in sys.modules:
        _import()
    _divide_cores()


def calls_at_once() -> int:
    """Calls of the network that this process' TensorFlow should run at a time: 1 where all its threads share a call."""
    import tensorflow as tf

    threads: int = tf.config.threading.get_intra_op_parallelism_threads()
    if not threads or tf.config.list_physical_devices("GPU"):
        return 1
    return max(1, min(_MAX_CALLS, available_cores() // threads))


def _import() -> None:
    if _LEGACY in os.environ or importlib.util.find_spec("tf_keras") is not None:
        importlib.import_module("tensorflow")
        return
    os.environ[_LEGACY] = "1"
    try:
        importlib.import_module("tensorflow")
    finally:
        del os.environ[_LEGACY]


def _divide_cores() -> None:
    import tensorflow as tf

    if _THREADS in os.environ or tf.config.list_physical_devices("GPU"):
        return
    cores = available_cores()
    with contextlib.suppress(RuntimeError):  # it has computed something already, and its threads stay as they are
        tf.config.threading.set_intra_op_parallelism_threads(-(-cores // min(_MAX_CALLS, cores)))
