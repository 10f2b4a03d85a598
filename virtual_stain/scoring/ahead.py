"""What a slide needs before its first tile (the file's hash, the tissue, its stain), found while the model loads or
another slide is at the network.

One slide ahead and in one thread. Nothing depends on it: where it fails, or a slide is not in its list, the same is
done in the slide's turn, and that is where errors are raised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from virtual_stain.config import TissueSettings
from virtual_stain.errors import VirtualStainError
from virtual_stain.scoring.score import locate_tissue
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.stain_kind import StainColours, stain_looks
from virtual_stain.slides.tissue import TissueMap


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Of one slide."""

    content_hash: str
    tissue: TissueMap | None
    """None: not looked for."""
    looks: tuple[StainColours, ...] | None
    """`stain_looks` of its tissue; None: not looked for."""
    stamp: tuple[int, int]
    """The file's size and time when it was hashed."""


class Ahead:
    """A context manager; `take` gives what is known of a slide and begins with the next."""

    def __init__(
        self,
        refs: Sequence[SlideRef],
        settings: TissueSettings,
        wants_tissue: Callable[[SlideRef], bool],
        was_read: Callable[[SlideRef], bool] = lambda _: False,
    ) -> None:
        """`wants_tissue`: False where the slide's results may be there already, so that its hash alone is needed.
        `was_read`: True where an earlier run has read this very file, so that no child need try it first."""
        self._index = {ref: i for i, ref in enumerate(refs)}
        self._refs, self._settings, self._wants_tissue = list(refs), settings, wants_tissue
        self._was_read = was_read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun: dict[SlideRef, Future[Known]] = {}

    def __enter__(self) -> Ahead:
        self._begin(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, ref: SlideRef) -> Known | None:
        """Waits for it if need be; None where nothing was found out, or the file is not the same any more."""
        future = self._begun.pop(ref, None)
        found = None
        with contextlib.suppress(VirtualStainError, OSError):  # met again, and told, in the slide's turn
            found = None if future is None else future.result()
            found = found if found is not None and found.stamp == _stamp(ref) else None
        if ref in self._index:
            self._begin(self._index[ref] + 1)
        return found

    def _begin(self, index: int) -> None:
        if index < len(self._refs):
            ref = self._refs[index]
            self._begun[ref] = self._pool.submit(self._find, ref)

    def _find(self, ref: SlideRef) -> Known:
        stamp = _stamp(ref)
        if not self._was_read(ref):
            require_survivable(ref)
        with open_slide(ref) as slide:
            digest = slide.content_hash()
            if not self._wants_tissue(ref):
                return Known(digest, None, None, stamp)
            tissue = locate_tissue(slide, self._settings)
            return Known(digest, tissue, tuple(stain_looks(slide, tissue)), stamp)


def _stamp(ref: SlideRef) -> tuple[int, int]:
    found = ref.path.stat()
    return found.st_size, found.st_mtime_ns
