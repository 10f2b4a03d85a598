"""Where the tiles lie on the H&E slide: their own thumbnails, put together on white.

The slide itself is not opened: the folder of records may have moved to another machine, and a label image can never
slip in. Kept beside the tiles under the key of what it was made from.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import cv2
import numpy as np

from virtual_stain.errors import OutputError
from virtual_stain.files import write_bytes
from virtual_stain.labels.store import TileStore
from virtual_stain.web.review.folder import RecordFolder, ReviewPair

_LONGEST_PX = 1200
_CELL_PX = (8, 96)
_QUALITY = 85
_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class OverviewFrame:
    """The picture's place on the slide."""

    x_px0: float
    y_px0: float
    px0_per_px: float
    width: int
    height: int


def overview_frame(pair: ReviewPair) -> OverviewFrame:
    """The smallest rectangle with all tiles, scaled so that a tile is 8 to 96 px and the whole at most 1200 px."""
    boxes = np.array([label.box_px0 for label in pair.labels] or [(0.0, 0.0, 1.0, 1.0)])
    x0, y0 = boxes[:, 0].min(), boxes[:, 1].min()
    width, height = (boxes[:, 0] + boxes[:, 2]).max() - x0, (boxes[:, 1] + boxes[:, 3]).max() - y0
    tile = float(boxes[0, 2])
    scale = max(max(width, height) / _LONGEST_PX, tile / _CELL_PX[1])
    scale = min(scale, tile / _CELL_PX[0])
    return OverviewFrame(
        float(x0), float(y0), float(scale), max(1, round(float(width) / scale)), max(1, round(float(height) / scale))
    )


def overview_jpeg(folder: RecordFolder, pair: ReviewPair) -> bytes:
    """The picture of `overview_frame`; made once for each version of the tiles."""
    path = folder.path(pair.name).with_name(f"overview-{pair.fingerprint[:16]}.jpg")
    with _making:
        if path.is_file():
            return path.read_bytes()
        data = _make(folder, pair)
        try:
            for old in path.parent.glob("overview-*.jpg"):
                old.unlink(missing_ok=True)
            write_bytes(path, data)
        except (OutputError, OSError):
            pass  # a folder that cannot be written can still be looked at
        return data


def _make(folder: RecordFolder, pair: ReviewPair) -> bytes:
    frame = overview_frame(pair)
    picture = np.full((frame.height, frame.width, 3), 255, np.uint8)
    with TileStore(folder.path(pair.name)) as store:
        for label in pair.labels:
            x, y, width, height = label.box_px0
            left, top = round((x - frame.x_px0) / frame.px0_per_px), round((y - frame.y_px0) / frame.px0_per_px)
            right = min(frame.width, round((x + width - frame.x_px0) / frame.px0_per_px))
            bottom = min(frame.height, round((y + height - frame.y_px0) / frame.px0_per_px))
            if right <= left or bottom <= top:
                continue
            data = np.frombuffer(store.jpeg(label.index, "he"), np.uint8)
            small = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_8)  # an eighth, decoded eight times as fast
            if small is not None:
                picture[top:bottom, left:right] = cv2.resize(
                    small, (right - left, bottom - top), interpolation=cv2.INTER_AREA
                )
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes()
