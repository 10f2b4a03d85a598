"""What other scanners and laboratories do to a picture: of pixels, and of the two stains in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from tools.bench.counting_data import Scene
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.optical_density import Vector, optical_density, separate
from virtual_stain.counting.stain import estimate_stain

F64 = npt.NDArray[np.float64]
Disturb = Callable[[Scene], Scene]

_SKY_BLUE: Vector = (0.92, 0.38, 0.08)
_GREY_BLUE: Vector = (0.62, 0.60, 0.50)
_TISSUE_OD, _TISSUE_UM = 0.12, 3.0  # summed density, and how far it is averaged, from which a place is tissue


def disturbances() -> list[tuple[str, Disturb]]:
    """The usual ones and the harsh ones."""
    return usual() + harsh()


def usual() -> list[tuple[str, Disturb]]:
    """What any two scanners or weeks differ by."""
    return [
        ("yellow cast", _pixels(lambda rgb: rgb * (1.0, 0.97, 0.85))),
        ("blue cast", _pixels(lambda rgb: rgb * (0.87, 0.95, 1.0))),
        ("grey, 80 % light", _pixels(lambda rgb: rgb * 0.8)),
        ("stain × 0.8", _pixels(_stronger(0.8))),
        ("stain × 1.2", _pixels(_stronger(1.2))),
        ("blur, sigma 0.4 µm", lambda scene: _pixels(lambda rgb: _blurred(rgb, 0.4 / scene.mpp))(scene)),
        ("JPEG quality 70", _pixels(_jpeg(70))),
    ]


def harsh() -> list[tuple[str, Disturb]]:
    """What is rare, or a fault of the stain."""
    return [
        ("JPEG quality 50", _pixels(_jpeg(50))),
        ("gamma 0.7", _pixels(lambda rgb: 255 * (rgb / 255) ** 0.7)),
        ("gamma 1.5", _pixels(lambda rgb: 255 * (rgb / 255) ** 1.5)),
        ("pixels of 0.5 µm", _coarser(0.5)),
        ("pixels of 0.6 µm", _coarser(0.6)),
        ("hematoxylin × 0.5", _stains(hematoxylin=0.5)),
        ("hematoxylin × 0.3", _stains(hematoxylin=0.3)),
        ("hematoxylin × 2", _stains(hematoxylin=2.0)),
        ("sky blue", _stains(vector=_SKY_BLUE)),
        ("sky blue, × 0.5", _stains(hematoxylin=0.5, vector=_SKY_BLUE)),
        ("grey blue", _stains(vector=_GREY_BLUE)),
        ("brown tissue, 0.1", _stains(brown_od=0.1)),
        ("brown tissue, 0.2", _stains(brown_od=0.2)),
    ]


def _pixels(change: Callable[[F64], F64]) -> Disturb:
    def apply(scene: Scene) -> Scene:
        rgb = np.clip(np.round(change(scene.rgb.astype(np.float64))), 0, 255).astype(np.uint8)
        return dataclasses.replace(scene, rgb=rgb)

    return apply


def _stronger(factor: float) -> Callable[[F64], F64]:
    """Beer–Lambert against the brightest of the picture: densities times `factor`."""

    def change(rgb: F64) -> F64:
        light = np.percentile(rgb.reshape(-1, 3), 99.5, axis=0)
        return np.asarray(light * (np.maximum(rgb, 1) / light) ** factor, np.float64)

    return change


def _blurred(rgb: F64, sigma_px: float) -> F64:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.float64)


def _jpeg(quality: int) -> Callable[[F64], F64]:
    def change(rgb: F64) -> F64:
        data = cv2.imencode(".jpg", rgb.astype(np.uint8)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1].astype(np.float64)

    return change


def _coarser(mpp: float) -> Disturb:
    def apply(scene: Scene) -> Scene:
        factor = scene.mpp / mpp
        size = round(scene.rgb.shape[1] * factor), round(scene.rgb.shape[0] * factor)
        rgb = np.asarray(cv2.resize(scene.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        return dataclasses.replace(scene, rgb=rgb, mpp=mpp, xy=scene.xy * factor)

    return apply


def _stains(hematoxylin: float = 1.0, brown_od: float = 0.0, vector: Vector | None = None) -> Disturb:
    """Unmixes with the picture's own stain, changes the amounts or the colour of hematoxylin, and mixes again."""

    def apply(scene: Scene) -> Scene:
        stain = estimate_stain([scene.rgb], CountingSettings(), scene.mpp)
        density = optical_density(scene.rgb, stain.background)
        h, d, rest = separate(density, stain.hematoxylin, stain.dab)
        normal = np.cross(stain.hematoxylin, stain.dab)
        total = np.asarray(cv2.GaussianBlur(density.sum(axis=2), (0, 0), _TISSUE_UM / scene.mpp), np.float32)
        tissue = cv2.GaussianBlur((total > _TISSUE_OD).astype(np.float32), (0, 0), _TISSUE_UM / 2 / scene.mpp)
        blue = np.asarray(stain.hematoxylin if vector is None else vector)
        mixed = (h * hematoxylin)[..., None] * (blue / np.linalg.norm(blue))
        mixed = mixed + (d + brown_od * tissue)[..., None] * np.asarray(stain.dab)
        mixed = mixed + rest[..., None] * (normal / np.linalg.norm(normal))
        light = (np.asarray(stain.background) + 1) * 10.0 ** -np.maximum(mixed, 0) - 1
        return dataclasses.replace(scene, rgb=np.clip(np.round(light), 0, 255).astype(np.uint8))

    return apply
