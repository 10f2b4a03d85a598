"""Verdicts while the review dies: what was answered is there, once, and what was not can be sent again."""

from __future__ import annotations

import json
import random
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from tools.harness.scene import Scene
from tools.harness.warm import Warm


def kill_review(scene: Scene, kills: int, seed: int = 0) -> Iterator[str]:
    """A sentence for every verdict that was lost or stored twice. Three readers write while the server is killed."""
    from tests.fixtures.review import tiny_review
    from virtual_stain.labels.store import TileStore
    from virtual_stain.review.store import DATABASE, ReviewStore

    folder = scene.folder / "kill-review"
    shutil.rmtree(folder, ignore_errors=True)
    tiny_review(folder, pairs=1, tiles=6, tile_px=64)
    with TileStore(folder / "work" / "case-01" / "tiles.h5") as store:
        tiles = [store.tile(i) for i in range(6)]
    places = [{"pair": "case-01", "col": t.col, "row": t.row, "label_id": t.label_id} for t in tiles]
    answered: set[str] = set()
    unanswered: list[dict[str, Any]] = []
    with Warm(scene.environment, network=False) as warm:
        for number in range(seed, seed + kills + 1):
            last = number == seed + kills
            port = _free_port()
            readers = [_Reader(port, places, f"{number}-{i}", unanswered[i::3]) for i in range(3)]
            for reader in readers:
                reader.start()
            arguments = ["review", str(folder), "--port", str(port), "--no-browser"]
            delay = random.Random(number).uniform(0.02, 0.5)
            ended = warm.run(
                arguments, kill_when=lambda readers=readers: any(r.begun for r in readers), kill_after_s=delay
            )
            for reader in readers:
                reader.stop()
            if ended.returncode != -9:
                yield f"kill {number}: the server ended with {ended.returncode}: {ended.stderr.strip()[-300:]}"
            answered |= {a for reader in readers for a in reader.answered}
            unanswered = [sent for reader in readers for sent in reader.unanswered]
            yield from (f"kill {number}: a verdict was refused: {r.refused}" for r in readers if r.refused)
            if not last and not any(reader.answered for reader in readers):
                yield f"kill {number}: no verdict was answered before it"
    stored = [d.verdict.reason for d in ReviewStore(folder / DATABASE, create=False).decisions()]
    # a decision that a later one of the same reader follows stays a row of its own
    lost = answered - set(stored)
    if lost:
        yield f"{len(lost)} of {len(answered)} answered verdicts are lost: {sorted(lost)[:3]}"
    twice = len(stored) - len(set(stored))
    if twice:
        yield f"{twice} verdicts are stored twice"


class _Reader(threading.Thread):
    """Sends verdicts one after another, first those that were not answered before, until the server is gone."""

    def __init__(self, port: int, places: list[dict[str, Any]], name: str, again: list[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self._port, self._places, self._name = port, places, name
        self.unanswered = list(again)
        self.answered: list[str] = []
        self.begun = False
        self.refused = ""
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()
        self.join(30)

    def run(self) -> None:
        number = 0
        while not self._ended.is_set() and not self.refused:
            if not self.unanswered:
                body = self._places[number % len(self._places)] | {"verdict": "reject", "reviewer": self._name}
                name = f"{self._name}-{number}"
                self.unanswered.append(body | {"reason": name, "request_id": f"request-{name}"})
                number += 1
            if not self._sent(self.unanswered[0]):
                time.sleep(0.01)
                continue
            self.begun = True
            self.answered.append(self.unanswered.pop(0)["reason"])

    def _sent(self, body: dict[str, Any]) -> bool:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/review/decisions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return bool(answer.status == 201)
        except urllib.error.HTTPError as error:
            self.refused, self.begun = f"{error.code}: {error.read()[:300]!r}", True
            return False
        except OSError:  # not yet there, or gone
            return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
