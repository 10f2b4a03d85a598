"""A real Chromium in front of the real pages; skipped with a sentence where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from fastapi import FastAPI

from virtual_stain.config import WebSettings
from virtual_stain.web.server import listen, url_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VNU_DEFAULT = Path(__file__).parents[2] / ".venv" / "axe" / "node_modules" / "vnu-jar" / "build" / "dist" / "vnu.jar"
VNU = Path(os.environ.get("VSTAIN_VNU_JAR", VNU_DEFAULT))
AXE = Path(__file__).parents[2] / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in Path(item.fspath).parts:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = os.environ.get("VSTAIN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or name one in VSTAIN_CHROMIUM")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)  # with an empty profile of its own
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test on any script error, refused resource or request to another place."""
    context = browser.new_context(viewport={"width": 1366, "height": 768}, accept_downloads=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    opened.on("console", lambda m: wrong.append(f"{m.type}: {m.text}") if _is_ours(m) else None)
    outside = lambda r: not r.url.startswith(("http://127.0.0.1:", "blob:", "data:", "file:"))  # noqa: E731
    opened.on("request", lambda r: wrong.append(f"asked outside: {r.url}") if outside(r) else None)
    yield opened
    context.close()
    assert wrong == []


def _is_ours(message: Any) -> bool:
    # a server that is killed on purpose makes Chromium say so; scripts that break or are refused are what matters
    return message.type in ("error", "warning") and "Failed to load resource" not in message.text


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Runs an application; its address."""
    sock = listen(WebSettings(port=0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=lambda: server.run(sockets=[sock]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield url_of(sock)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core; empty where it is not installed: the pages are driven all the same."""
    return AXE.read_text(encoding="utf-8") if AXE.is_file() else ""


def until(page: Page, condition: str, seconds: float = 30) -> None:
    """Waits for a condition in the page; Playwright's own way evaluates strings there, which our policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(5)


def accessibility_problems(page: Page, source: str) -> list[str]:
    """What axe finds against WCAG 2.1 A and AA, one line each; nothing is looked at without a source."""
    if not source:
        return []
    page.evaluate(source)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    found = page.evaluate("tags => axe.run(document, { runOnly: tags })", tags)
    return [f"{v['id']}: {n['target']} {n['failureSummary']}" for v in found["violations"] for n in v["nodes"]]


def html_problems(*pages: Path) -> list[str]:
    """Errors that the Nu HTML checker finds, one line each. Skips the test where it is not installed."""
    java = shutil.which("java")
    if java is None or not VNU.is_file():
        pytest.skip(
            "the Nu HTML checker is not installed: make axe (needs npm and Java), or name vnu.jar in VSTAIN_VNU_JAR"
        )
    done = subprocess.run(
        [java, "-jar", str(VNU), "--errors-only", "--format", "gnu", *map(str, pages)], capture_output=True, text=True
    )
    return [line for line in done.stderr.splitlines() if line.strip()]
