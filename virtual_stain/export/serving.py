"""What TF Serving needs beside the bundle: warm-up requests, model and batching configuration, a compose file.

The warm-up file is a TFRecord of `tensorflow.serving.PredictionLog` messages (public protocol:
tensorflow_serving/apis/{prediction_log,predict,model}.proto). Their Python stubs are no dependency of ours; the
messages hold nothing but nested, length-delimited fields, so the few lines below write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from virtual_stain.files import make_folder, write_text

# The server must be able to load what this TensorFlow saves; a newer server of the same major version can, too.
SERVING_IMAGE = "tensorflow/serving:2.17.0"
GRPC_PORT, REST_PORT = 8500, 8501


def prediction_log(model_name: str, signature: str, inputs: Mapping[str, bytes]) -> bytes:
    """A serialized PredictionLog with one PredictRequest.

    `inputs`: name → serialized TensorProto. Field numbers: PredictionLog.predict_log 6, PredictLog.request 1,
    PredictRequest.model_spec 1 and .inputs 2 (a map: key 1, value 2), ModelSpec.name 1 and .signature_name 3.
    """
    spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    entries = b"".join(_field(2, _field(1, k.encode()) + _field(2, v)) for k, v in inputs.items())
    return _field(6, _field(1, _field(1, spec) + entries))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_serving_files(model: Path, name: str) -> Path:
    """Writes MODEL/serving/{models.config,batching.config,docker-compose.yml}; files that exist are left as they are.

    `name`: the model's name in URLs. Returns the folder. Raises OutputError.
    """
    folder = make_folder(model / "serving")
    texts = {"models.config": _MODELS, "batching.config": _BATCHING, "docker-compose.yml": _COMPOSE}
    for file, text in texts.items():
        if not (folder / file).exists():  # the user may have tuned it since the last version
            filled = text.replace("@NAME@", name).replace("@IMAGE@", SERVING_IMAGE)
            write_text(folder / file, filled.replace("@GRPC@", str(GRPC_PORT)).replace("@REST@", str(REST_PORT)))
    return folder


_MODELS = """\
model_config_list {
  config {
    name: "@NAME@"
    base_path: "/models/@NAME@"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 1 } }
  }
}
"""

# A tile is four crops for the network: batches of a few tiles fill a CPU, tens of them a GPU.
_BATCHING = """\
max_batch_size { value: 16 }
batch_timeout_micros { value: 5000 }
max_enqueued_batches { value: 256 }
num_batch_threads { value: 2 }
allowed_batch_sizes: 1
allowed_batch_sizes: 2
allowed_batch_sizes: 4
allowed_batch_sizes: 8
allowed_batch_sizes: 16
"""

_COMPOSE = """\
# docker compose -f serving/docker-compose.yml up      gRPC on @GRPC@, REST on @REST@
services:
  serving:
    image: @IMAGE@
    ports:
      - "@GRPC@:8500"
      - "@REST@:8501"
    volumes:
      - "..:/models/@NAME@:ro"
    command:
      - "--model_config_file=/models/@NAME@/serving/models.config"
      - "--enable_batching=true"
      - "--batching_parameters_file=/models/@NAME@/serving/batching.config"
    restart: unless-stopped
"""
