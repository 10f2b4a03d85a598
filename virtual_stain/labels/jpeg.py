"""Tiles as JPEG bytes: chroma is never subsampled, since stains are told apart by colour."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import VerificationError


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int) -> bytes:
    """uint8[H, W, 3] RGB → baseline JPEG, 4:4:4; the same pixels give the same bytes."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise ValueError(f"Expected an image that JPEG can hold. Received: shape {rgb.shape}")
    return data.tobytes()


def decode_jpeg(data: bytes) -> npt.NDArray[np.uint8]:
    """JPEG → uint8[H, W, 3] RGB. Raises VerificationError."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise VerificationError(f"expected a JPEG image. Received: {len(data)} bytes of something else")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
