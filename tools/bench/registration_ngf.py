"""Normalised gradient fields (Haber & Modersitzki 2006) as an alternative to locally normalised absorbance.

NGF asks of two pictures only that their edges lie along each other, whatever the contrast: (n·m)² of the two unit
gradients. With 2(n·m)² = 1 + cos 2(α − β) that is a plain correlation of two images each, (cos 2α, sin 2α) weighted by
w = |∇|² / (|∇|² + ε²); so all translations come by FFT, and windows by the same template matching as ours.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import scipy.fft

from virtual_stain.config import RegistrationSettings
from virtual_stain.registration.estimate import make_level, refine
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Image, Matrix, blur, pulled, shrink
from virtual_stain.registration.refine import Local, first_pass, refine_locally
from virtual_stain.registration.warping import pull, pull_map, pull_mask
from virtual_stain.registration.working import WorkingPair

_SIGMA = 2.0  # px, before the gradient
_COARSE_PX = 110  # square root of the tissue area at which all turns are tried, as ours
_STEP_DEG = 8.0
_FINE_PX = 320.0


def gradient_field(image: Image) -> tuple[Image, Image]:
    """float32[H, W] each: w cos 2α and w sin 2α; ε is the median length of the gradients there are."""
    smooth = blur(image, _SIGMA)
    gx, gy = (cv2.Sobel(smooth, cv2.CV_32F, *d, ksize=3) for d in ((1, 0), (0, 1)))
    square = gx * gx + gy * gy
    seen = square[square > 1e-8]
    total = square + np.float32(np.median(seen) if len(seen) else 1.0)
    return (gx * gx - gy * gy) / total, 2 * gx * gy / total


def ngf(pair: WorkingPair) -> Matrix | None:
    """All turns, mirrors and translations by NGF at a small size; the best one refined by ECC, as ours is."""
    factor = min(1.0, _COARSE_PX / float(np.sqrt(pair.fixed.tissue_px)))
    fixed, moving = (shrink(s.density * s.mask, factor) for s in (pair.fixed, pair.moving))
    side = scipy.fft.next_fast_len(int(np.hypot(*fixed.shape) / 2 + np.hypot(*moving.shape)) + 8, real=True)
    middle = np.array([side / 2, side / 2])
    put = np.eye(3)
    put[:2, 2] = np.array(fixed.shape[::-1]) / 2 - middle
    spectra = [np.conj(scipy.fft.rfft2(i)) for i in gradient_field(pulled(fixed, put, (side, side)))]
    best: tuple[float, Matrix | None] = (-np.inf, None)
    for mirror in (1.0, -1.0):
        for angle in np.deg2rad(np.arange(0.0, 360.0, _STEP_DEG)):
            into = np.eye(3)
            into[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            into[:2, :2] @= np.diag([mirror, 1.0])
            into[:2, 2] = np.array(moving.shape[::-1]) / 2 - into[:2, :2] @ middle
            parts = gradient_field(pulled(moving, into, (side, side)))
            surface = scipy.fft.irfft2(
                sum(scipy.fft.rfft2(p) * s for p, s in zip(parts, spectra, strict=True)), s=(side, side)
            )
            y, x = np.unravel_index(int(surface.argmax()), surface.shape)
            if surface[y, x] > best[0]:
                move = np.eye(3)
                move[:2, 2] = [v if v <= side // 2 else v - side for v in (int(x), int(y))]
                best = float(surface[y, x]), into @ move @ np.linalg.inv(put)
    if best[1] is None:
        return None
    small = np.diag([fixed.shape[1] / pair.fixed.shape[1], fixed.shape[0] / pair.fixed.shape[0], 1.0])
    large = np.diag([pair.moving.shape[1] / moving.shape[1], pair.moving.shape[0] / moving.shape[0], 1.0])
    start = large @ best[1] @ small
    return refine(make_level(pair.fixed, pair.moving, _FINE_PX / float(np.sqrt(pair.fixed.tissue_px))), start, 60)


def ngf_windows(pair: WorkingPair, matrix: Matrix, settings: RegistrationSettings) -> Local:
    """Our windows and our field, on gradient directions instead of absorbance; `matrix` is where they start."""
    mapping = pull_map(pair.fixed.shape, matrix, None)
    sides = [
        (pair.fixed.density, pair.fixed.mask),
        # directions turn with the picture: taken after it is pulled into the fixed frame
        (pull(pair.moving.density, mapping), pull_mask(pair.moving.mask, mapping)),
    ]
    fixed, moving = (_as_foreground(pair.fixed, image, mask) for image, mask in sides)
    found = refine_locally(fixed, moving, first_pass(fixed, moving, np.eye(3), settings), settings)
    return dataclasses.replace(found, matrix=matrix @ found.matrix)


def _as_foreground(like: Foreground, image: Image, mask: np.ndarray) -> Foreground:
    first, second = gradient_field(image)
    return dataclasses.replace(like, density=first, nuclei=second, mask=mask)
