"""Outlines of nuclei as closed rings."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Points

_FINER = 2  # the contour runs through pixel centres: of half pixels, it lies a quarter of a pixel inside the edge
_TOLERANCE = 0.35  # working pixels that a simplified outline may stray


def outlines(labels: npt.NDArray[np.int32], count: int, only: npt.NDArray[np.intp] | None = None) -> list[Points]:
    """One ring float64[M, 2] (x, y in pixels of `labels`, pixel centres at + 0.5) for every label 1…count.

    `only`: intp[K], the nuclei that are wanted, counted from 0; None: all.

    M ≥ 4; rings are open here (the first point is not repeated), simple, and run so that the shoelace area in
    (x, y), y down, is positive. Holes are left out.
    """
    wanted = range(count) if only is None else only.tolist()
    boxes = _boxes(labels, count).tolist()
    rings = []
    for index in wanted:
        y, x, y1, x1 = boxes[index]
        mask = labels[y:y1, x:x1] == index + 1
        fine = np.zeros((_FINER * (y1 - y) + 2, _FINER * (x1 - x) + 2), np.uint8)
        fine[1:-1, 1:-1] = mask.repeat(_FINER, axis=0).repeat(_FINER, axis=1)
        contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        contour = max(contours, key=cv2.contourArea)
        simple = cv2.approxPolyDP(contour, _TOLERANCE * _FINER, closed=True)
        if len(simple) < 4:  # a speck of a few pixels: keep every corner
            simple = contour
        points = (simple.reshape(-1, 2).astype(np.float64) - 0.5) / _FINER + np.array([x, y])
        rings.append(points if cv2.contourArea(simple, oriented=True) > 0 else points[::-1])
    return rings


def _boxes(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """int64[count, 4]: y, x, y1, x1 of every label, in one pass."""
    at = np.flatnonzero(labels)
    row, column = np.divmod(at, labels.shape[1])
    owner = labels.ravel()[at] - 1
    box = np.empty((count, 4), np.int64)
    box[:, :2], box[:, 2:] = np.iinfo(np.int64).max, 0
    np.minimum.at(box[:, 0], owner, row)
    np.minimum.at(box[:, 1], owner, column)
    np.maximum.at(box[:, 2], owner, row + 1)
    np.maximum.at(box[:, 3], owner, column + 1)
    return box


def shoelace(ring: Points) -> float:
    """Signed area of a ring (x, y), open or closed."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2
