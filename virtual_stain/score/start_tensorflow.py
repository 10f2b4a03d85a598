"""TensorFlow without Keras: reading a frozen network needs no training library, and importing it costs a second.

`import tensorflow` ends with importing Keras' optimizers (and with them matplotlib's pyplot and scikit-learn), from the
package that TF_USE_LEGACY_KERAS chooses; where that package is not installed it goes without. The variable is set for
this import alone: Keras can still be imported afterwards, and is then version 3 as always.
"""

from __future__ import annotations

import importlib.util
import os
import sys

_LEGACY = "TF_USE_LEGACY_KERAS"


def start_tensorflow() -> None:
    """Imports TensorFlow, unless something else has."""
    if "tensorflow" in sys.modules or _LEGACY in os.environ or importlib.util.find_spec("tf_keras") is not None:
        return
    os.environ[_LEGACY] = "1"
    try:
        importlib.import_module("tensorflow")
    finally:
        del os.environ[_LEGACY]
