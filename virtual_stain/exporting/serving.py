"""What TF Serving needs beside the bundle: warm-up requests, model and batching configuration, Docker and Kubernetes.

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
    """Writes MODEL/serving/{models.config,batching.config,docker-compose.yml,kubernetes.yaml}; not over existing files.

    `name`: the model's name in URLs. Returns the folder. Raises OutputError.
    """
    folder = make_folder(model / "serving")
    texts = {
        "models.config": _MODELS,
        "batching.config": _BATCHING,
        "docker-compose.yml": _COMPOSE,
        "kubernetes.yaml": _KUBERNETES,
    }
    for file, text in texts.items():
        if not (folder / file).exists():  # the user may have tuned it since the last version
            filled = text.replace("@NAME@", name).replace("@DNS@", _dns_name(name)).replace("@IMAGE@", SERVING_IMAGE)
            write_text(folder / file, filled.replace("@GRPC@", str(GRPC_PORT)).replace("@REST@", str(REST_PORT)))
    return folder


def _dns_name(name: str) -> str:
    """The model's name as Kubernetes takes names: lower case, digits and - (RFC 1123)."""
    return "vstain-" + "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:50]


_MODELS = """\
# Serves the newest version. For a canary name the versions and label them; clients then ask for
# grpc://host:8500/@NAME@/labels/stable or /labels/canary:
#    model_version_policy { specific { versions: 1 versions: 2 } }
#    version_labels { key: "stable" value: 1 }
#    version_labels { key: "canary" value: 2 }
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
      - "--allow_version_labels_for_unavailable_models=true"
    restart: unless-stopped
"""

_KUBERNETES = """\
# kubectl apply -f serving/kubernetes.yaml     the model's folder (MODEL) lies on the volume claim, below /@NAME@
apiVersion: apps/v1
kind: Deployment
metadata:
  name: @DNS@
  labels: {app: @DNS@}
spec:
  replicas: 1
  selector:
    matchLabels: {app: @DNS@}
  template:
    metadata:
      labels: {app: @DNS@}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 1000}
      containers:
        - name: serving
          image: @IMAGE@
          command: ["/usr/bin/tensorflow_model_server"]
          args:
            - "--port=8500"
            - "--rest_api_port=8501"
            - "--model_config_file=/models/@NAME@/serving/models.config"
            - "--enable_batching=true"
            - "--batching_parameters_file=/models/@NAME@/serving/batching.config"
            - "--allow_version_labels_for_unavailable_models=true"
          ports:
            - {name: grpc, containerPort: 8500}
            - {name: rest, containerPort: 8501}
          resources:
            requests: {cpu: "2", memory: 3Gi}
            limits: {memory: 6Gi}
          # ready only when the model is loaded and warm: a rollout never sends tiles to a server that cannot answer
          readinessProbe:
            httpGet: {path: /v1/models/@NAME@, port: rest}
            periodSeconds: 5
          livenessProbe:
            tcpSocket: {port: grpc}
            initialDelaySeconds: 60
            periodSeconds: 20
          volumeMounts:
            - {name: models, mountPath: /models, readOnly: true}
      volumes:
        - name: models
          persistentVolumeClaim: {claimName: @DNS@-models, readOnly: true}
---
apiVersion: v1
kind: Service
metadata:
  name: @DNS@
spec:
  selector: {app: @DNS@}
  ports:
    - {name: grpc, port: @GRPC@, targetPort: grpc}
    - {name: rest, port: @REST@, targetPort: rest}
"""
