"""The review page under load: how soon the next tile is painted, and whether the server's memory stays flat.

    .venv/bin/python tools/bench/bench_review_page.py --tiles 300 --requests 1000

A synthetic folder of full-size tiles (1024 px, as noisy as tissue) is reviewed in an installed Chromium: one key a
tile, at the pace of a reader (--pace) or as fast as the page takes keys (--pace 0).
"Painted" is measured in the page, from
the key to the frame after the canvases were drawn. Memory is the server's resident set over --requests tiles.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.browser.conftest import FLAGS, NAMES
from tests.fixtures.review import tiny_review


@click.command()
@click.option("--tiles", default=300, show_default=True, help="Tiles in the queue.")
@click.option("--requests", default=1000, show_default=True, help="Tiles fetched while memory is watched.")
@click.option("--pace", default=0.3, show_default=True, help="Seconds between keys; 0: at once.")
def main(tiles: int, requests: int, pace: float) -> None:
    """Prints one JSON object."""
    program = os.environ.get("VSTAIN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)))
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_review(Path(name) / "records", pairs=1, tiles=tiles, tile_px=1024)
        size = (folder / "work" / "case-01" / "tiles.h5").stat().st_size / tiles / 2
        server, address = _start(folder)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
                page = browser.new_page(viewport={"width": 1920, "height": 1080})
                paced = _review(page, address, tiles, pace)
                browser.close()
            memory = _memory(server.pid, address, requests)
        finally:
            server.kill()
            server.communicate()
    print(
        json.dumps(
            {"tiles": tiles, "jpeg_kb": round(size / 1e3), "pace_s": pace, "painted_ms": paced, **memory}, indent=2
        )
    )


def _start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()", "review", str(folder)]
    command += ["--port", "0", "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found is not None
    return server, found.group()


def _review(page: Page, address: str, tiles: int, pace: float) -> dict[str, float]:
    page.goto(address)
    page.wait_for_selector("#ask-name[open]")
    page.keyboard.type("bench")
    page.keyboard.press("Enter")
    while not page.evaluate("window.vstain.painted.length"):
        time.sleep(0.01)
    time.sleep(1)
    page.evaluate("window.vstain.painted.length = 0")
    for number in range(1, tiles):
        page.keyboard.press("a")
        time.sleep(pace)
        while page.evaluate("window.vstain.painted.length") < number:
            time.sleep(0.002)
    times = sorted(page.evaluate("window.vstain.painted.map((p) => p.ms)"))
    at = lambda share: round(times[int(share * (len(times) - 1))], 1)  # noqa: E731
    return {"n": len(times), "median": round(statistics.median(times), 1), "p95": at(0.95), "max": at(1.0)}


def _memory(pid: int, address: str, requests: int) -> dict[str, object]:
    """Resident memory in MB after every tenth of the requests, each a tile with both pictures and its cells."""
    import urllib.request

    def get(path: str) -> bytes:
        with urllib.request.urlopen(address.rstrip("/") + path) as answer:
            data: bytes = answer.read()
            return data

    items = json.loads(get("/api/review/queue"))["items"]
    order = np.random.default_rng(0).integers(0, len(items), requests)
    resident = [_resident_mb(pid)]
    for number, index in enumerate(order, 1):
        item = items[int(index)]
        path = f"/api/review/tiles/{item['pair']}/{item['col']}/{item['row']}"
        for part in ("", "/he.jpg", "/ihc.jpg"):
            get(path + part)
        if number % max(1, requests // 10) == 0:
            resident.append(_resident_mb(pid))
    return {"server_rss_mb": resident}


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
