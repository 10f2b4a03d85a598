"""TF Serving over gRPC, with the official stubs (extra `serving`): pixels as they are, no encoding, no loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from virtual_stain.errors import ConfigError, ModelError
from virtual_stain.installation import install_command
from virtual_stain.scoring.address import ServerAddress
from virtual_stain.scoring.predictor import MAPS, PLACE_PX, Answers, Tiles
from virtual_stain.scoring.transport import (
    Described,
    ServerBusyError,
    VersionGoneError,
    encode_jpeg,
    is_loopback_target,
    too_large,
)

_DT_FLOAT, _DT_UINT8, _DT_STRING = 1, 4, 7
_RAW = {"quadrants": "uint8", "center": "center_uint8"}
_ENCODED = {"quadrants": "serving_default", "center": "center"}


class GrpcTransport:
    """One channel to one model; fits `Transport`."""

    def __init__(self, address: ServerAddress, crops: str, *, jpeg: bool = False) -> None:
        """Raises ConfigError where the extra is not installed. Does not connect yet."""
        try:
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ConfigError(
                f"{address}: scoring over gRPC needs the official stubs, which are not installed ({error.name}).",
                hint=f"{install_command('serving')}, or use the server's REST port: http://host:8501/v1/models/…",
            ) from None
        self._address, self._jpeg = address, jpeg
        self._signature = (_ENCODED if jpeg else _RAW)[crops]
        self._grpc, self._request = grpc, predict_pb2.PredictRequest
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if is_loopback_target(address.target):
            options.append(("grpc.enable_http_proxy", 0))
        if address.scheme == "grpcs":
            self._channel = grpc.secure_channel(address.target, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(address.target, options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        codes = grpc.StatusCode
        self._busy = {codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.RESOURCE_EXHAUSTED, codes.ABORTED}

    def describe(self, timeout_s: float) -> Described:
        request = self._new("describe", self._address.version)
        _fill(request.inputs["query"], _DT_STRING, [1], strings=[b""])
        answer = self._call(request, timeout_s)
        version = answer.model_spec.version.value if answer.model_spec.HasField("version") else self._address.version
        if "card" not in answer.outputs or not answer.outputs["card"].string_val:
            raise ModelError(f"{self._address}: expected `describe` to answer card. Received: {sorted(answer.outputs)}")
        return Described(answer.outputs["card"].string_val[0].decode("utf-8", "replace"), version)

    def predict(self, tiles: Tiles, version: int | None, timeout_s: float) -> Answers:
        request = self._new(self._signature, version)
        if self._jpeg:
            _fill(request.inputs["image_bytes"], _DT_STRING, [len(tiles)], strings=[encode_jpeg(t) for t in tiles])
        else:
            tensor = request.inputs["tiles"]
            _fill(tensor, _DT_UINT8, tiles.shape)
            tensor.tensor_content = np.ascontiguousarray(tiles).tobytes()
        answer = self._answered(request, version, timeout_s)
        return {name: _floats(tensor, name, self._address) for name, tensor in answer.outputs.items()}

    def maps(self, windows: Tiles, version: int | None, timeout_s: float) -> Answers:
        """The generator's maps, float32[B, h/4, w/4] by name; pixels as they are."""
        request = self._new(MAPS, version)
        tensor = request.inputs["windows"]
        _fill(tensor, _DT_UINT8, windows.shape)
        tensor.tensor_content = np.ascontiguousarray(windows).tobytes()
        answer = self._answered(request, version, timeout_s)
        shape = (windows.shape[0], windows.shape[1] // PLACE_PX, windows.shape[2] // PLACE_PX)
        return {
            name: _floats(tensor, name, self._address, int(np.prod(shape))).reshape(shape)
            for name, tensor in answer.outputs.items()
        }

    def close(self) -> None:
        self._channel.close()

    def _new(self, signature: str, version: int | None) -> Any:
        request = self._request()
        request.model_spec.name = self._address.model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        elif self._address.label is not None:
            request.model_spec.version_label = self._address.label
        return request

    def _answered(self, request: Any, version: int | None, timeout_s: float) -> Any:
        answer = self._call(request, timeout_s)
        served = answer.model_spec.version.value if answer.model_spec.HasField("version") else version
        if version is not None and served != version:
            raise VersionGoneError(f"version {version} was asked and version {served} answered")
        return answer

    def _call(self, request: Any, timeout_s: float) -> Any:
        try:
            return self._stub.Predict(request, timeout=timeout_s)
        except self._grpc.RpcError as error:
            code, text = error.code(), str(error.details())
            if code == self._grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger" in text.lower():
                raise too_large(str(self._address), request.ByteSize(), text) from None
            if code in self._busy:
                raise ServerBusyError(f"{code.name}: {text}") from None
            if code == self._grpc.StatusCode.NOT_FOUND:
                raise VersionGoneError(text) from None
            raise ModelError(f"{self._address}: the server refused: {code.name}: {text}") from None


def _fill(tensor: Any, dtype: int, shape: Any, strings: list[bytes] | None = None) -> None:
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    if strings is not None:
        tensor.string_val.extend(strings)


def _floats(tensor: Any, name: str, address: ServerAddress, wanted: int | None = None) -> Any:
    """float32[N] of a TensorProto, in either of the two ways in which a server writes numbers. `wanted`: N."""
    if tensor.dtype != _DT_FLOAT:
        raise ModelError(f"{address}: expected {name} as float32. Received: type {tensor.dtype}")
    count = int(np.prod([d.size for d in tensor.tensor_shape.dim], dtype=np.int64))
    if wanted is not None and count != wanted:
        raise ModelError(f"{address}: expected {wanted} values of {name}. Received: {count}")
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, "<f4")
    else:
        values = np.array(tensor.float_val, np.float32)
        if 0 < len(values) < count:  # equal values at the end are written once
            values = np.concatenate([values, np.full(count - len(values), values[-1], np.float32)])
    if len(values) != count:
        raise ModelError(f"{address}: expected {count} values of {name}. Received: {len(values)}")
    return values
