"""Half-open connections, wrong tokens, and pages behind a prefix."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from virtual_stain.config import WebSettings
from virtual_stain.web.app import make_app
from virtual_stain.web.below_prefix import BelowPrefix
from virtual_stain.web.connections import BoundedLog, LimitedProtocol, max_connections
from virtual_stain.web.framing import Framing, FramingError, body_length
from virtual_stain.web.guard import Access, way_up
from virtual_stain.web.health import Health
from virtual_stain.web.server import listen, server_of
from virtual_stain.web.throttle import Throttle

TOKEN = "0123456789abcdef"
STATIC = Path(__file__).parents[2] / "virtual_stain" / "web"


def _app(token: str | None = None):
    access = Access("127.0.0.1", (), token)
    return make_app("t", access, [], Health(ready=lambda: None, gauges={}), pages=lambda app: None)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(LimitedProtocol, "limit", 8)
    monkeypatch.setattr(LimitedProtocol, "header_s", 0.5)
    sock = listen(WebSettings(port=0))
    server = server_of(_app(TOKEN))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    yield sock.getsockname()[:2]
    server.should_exit = True
    thread.join(20)
    sock.close()


def test_half_open_connections_starved_the_health_check(address: tuple[str, int]) -> None:
    held = [socket.create_connection(address, timeout=10) for _ in range(40)]
    try:
        for connection in held[-4:]:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")  # and never the end
        with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/healthz", timeout=10) as answer:
            assert answer.status == 200
        deadline = time.monotonic() + 10
        held[-1].settimeout(10)
        with pytest.raises(ConnectionError):  # none stays for ever
            while time.monotonic() < deadline:
                if not held[-1].recv(100):
                    raise ConnectionResetError
    finally:
        for connection in held:
            connection.close()


def _health(address: tuple[str, int]) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/healthz", timeout=10) as answer:
        return int(answer.status)


def test_slow_login_bodies_starved_the_health_check(address: tuple[str, int]) -> None:
    """Before the token: each body goes on for ever, a byte at a time."""
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    held = []
    try:
        for _ in range(20):
            held.append(socket.create_connection(address, timeout=10))
            held[-1].sendall(head + b"Content-Length: 60000\r\n\r\ntoken=")
            time.sleep(0.02)
        for _ in range(3):
            assert _health(address) == 200
            time.sleep(0.1)
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.sendall(b"a")
    finally:
        for connection in held:
            connection.close()


def test_readers_that_never_read_starved_the_health_check(address: tuple[str, int]) -> None:
    """Before the token: scripts are asked for by the dozen on one connection, and nothing is taken."""
    ask = b"GET /static/review.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300
    held = []
    try:
        for _ in range(16):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(10)
            connection.connect(address)
            held.append(connection)
            with contextlib.suppress(OSError):
                connection.sendall(ask)
        time.sleep(0.5)
        assert _health(address) == 200
    finally:
        for connection in held:
            connection.close()


def test_a_body_that_trickles_is_not_waited_for(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "body_s", 0.4)
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    with socket.create_connection(address, timeout=10) as connection, pytest.raises(ConnectionError):
        connection.sendall(head + b"Content-Length: 60000\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"a")
            time.sleep(0.05)


_POST = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
_GET = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = {
    "both lengths": _POST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked": _GET + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": _POST + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": _POST + "Content-Length: 0, 0\r\n\r\n",
    "a signed length": _POST + "Content-Length: +0\r\n\r\n",
    "a folded header": _GET + "X: a\r\n Content-Length: 40\r\n\r\n",
    "a bare LF": "GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "a bare LF in a header": _GET + "X: a\nContent-Length: 40\r\n\r\n",
    "a bare CR": _GET + "X: a\rContent-Length: 40\r\n\r\n",
    "a NUL": _GET + "X: a\0b\r\n\r\n",
    "a space before the colon": _GET + "Content-Length : 40\r\n\r\n",
    "an empty name": _GET + ": 40\r\n\r\n",
    "two hosts": _GET + "Host: evil.example\r\n\r\n",
    "another protocol": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": "GET /healthz\r\n\r\n",
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_a_request_hidden_in_another_was_answered(address: tuple[str, int], kind: str) -> None:
    """A proxy in front reads one request, and the server two: what could be read in two ways ends the connection."""
    hidden = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answers = _said(address, SMUGGLED[kind].encode() + hidden)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


def test_what_was_sound_before_a_hidden_request_is_answered(address: tuple[str, int]) -> None:
    sound, hidden = (_GET + "\r\n").encode(), SMUGGLED["both lengths"].encode()
    answers = _said(address, sound + sound + hidden + sound)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_no_request_becomes_another_protocol(address: tuple[str, int], upgrade: str) -> None:
    ask = f"{_GET}Connection: Upgrade, close\r\nUpgrade: {upgrade}\r\nSec-WebSocket-Key: x\r\n\r\n"
    assert _said(address, ask.encode()).startswith(b"HTTP/1.1 200 ")


def test_a_forwarded_address_bought_a_new_guess(address: tuple[str, int]) -> None:
    codes = []
    for number in range(12):
        ask = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.0.0.{number}\r\nConnection: close\r\n"
        codes.append(_said(address, f"{ask}Authorization: Bearer wrong {number}\r\n\r\n".encode())[9:12])
    assert codes.count(b"429") >= 6


def _said(address: tuple[str, int], data: bytes) -> bytes:
    """All answers until the server ends the connection."""
    answers = b""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                answers += piece
    return answers


def test_the_framing_is_the_same_in_any_pieces() -> None:
    head = b"PUT /a HTTP/1.1\r\nContent-Length: 12\r\n\r\n"
    data = (head + b"\r\n\r\nGET / HT" + b"GET / HTTP/1.1\r\nX:\tb \r\n\r\n") * 3
    for size in (1, 2, 3, 5, 64, len(data)):
        framing = Framing()
        assert b"".join(framing.whole_parts(data[i : i + size]) for i in range(0, len(data), size)) == data
    framing = Framing()
    with pytest.raises(FramingError) as error:
        framing.whole_parts(data + b"GET /\n\r\n\r\n" + data)
    assert error.value.passed == data


def test_headers_without_end_are_not_kept() -> None:
    framing = Framing()
    with pytest.raises(FramingError, match="bytes of headers"):
        for _ in range(100):
            framing.whole_parts(b"a" * 1000)
    with pytest.raises(ValueError, match="bytes of headers"):
        body_length(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")


def test_the_limit_leaves_descriptors_for_the_work() -> None:
    assert 8 <= max_connections() <= 400


def test_wrong_tokens_cost_time_by_address() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(5):
        assert throttle.wait_s("a") == 0
        throttle.failed("a")
    assert (throttle.wait_s("a"), throttle.wait_s("b")) == (1.0, 0.0)
    now[0] += 1
    throttle.failed("a")
    assert throttle.wait_s("a") == 2.0
    throttle.succeeded("a")
    assert throttle.wait_s("a") == 0
    for i in range(20_000):
        throttle.failed(str(i))
    assert len(throttle._known) == 10_000


def test_tokens_could_be_guessed_as_fast_as_the_server_answers() -> None:
    client = TestClient(_app(TOKEN), base_url="http://127.0.0.1")
    kind = {"content-type": "application/x-www-form-urlencoded"}
    codes = [client.post("/login", content="token=wrong", headers=kind).status_code for _ in range(7)]
    assert codes == [403] * 5 + [429] * 2
    assert client.get("/healthz").status_code == 200


def test_the_way_up_is_relative() -> None:
    assert [way_up(p) for p in ("/", "/login", "/jobs/5", "/a/b/c")] == ["./", "./", "../", "../../"]


def test_the_session_is_no_scripts_and_no_other_sites() -> None:
    client = TestClient(_app(TOKEN), base_url="http://127.0.0.1", follow_redirects=False)
    for headers, secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
        cookie = client.post("/login", data={"token": TOKEN}, headers=headers).headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert ("secure" in cookie) is secure


def test_links_and_redirects_left_the_prefix_of_a_proxy() -> None:
    client = TestClient(_app(TOKEN), base_url="http://127.0.0.1", follow_redirects=False)
    for path, place in (("/", "./login"), ("/jobs/5", "../login")):
        answer = client.get(path, headers={"accept": "text/html"})
        assert (answer.status_code, answer.headers["location"]) == (303, place)
    entered = client.post("/login", data={"token": TOKEN})
    assert entered.headers["location"] == "./"
    text = client.get("/login").text
    assert '<base href="./">' in text
    assert not re.findall(r'(?:href|src|action)="/', text)


def test_no_page_and_no_script_names_an_absolute_path() -> None:
    for file in [*STATIC.glob("templates/*.html"), *STATIC.glob("static/*.js")]:
        found = re.findall(r"""["'`]/(?:api|static|login|jobs)\b""", file.read_text(encoding="utf-8"))
        assert not found, file.name


@pytest.mark.parametrize("path", ["/vstain/login", "/login"])
def test_a_proxy_may_pass_the_prefix_on_or_take_it_off(path: str) -> None:
    client = TestClient(BelowPrefix(_app(TOKEN), "/vstain"), base_url="http://127.0.0.1", follow_redirects=False)
    text = client.get(path).text
    assert '<base href="./">' in text
    assert client.get("/vstain/static/style.css").status_code == 200
    assert client.get("/vstain").headers["location"] == "/vstain/"
    assert client.get("/vstain/jobs/5", headers={"accept": "text/html"}).headers["location"] == "../login"
    assert client.get("/vstainer/login").status_code != 200


@pytest.mark.parametrize("path", ["vstain", "/vstain/", "/", "/a b", "//host", "/../x/"])
def test_a_root_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        WebSettings(root_path=path)


def test_a_log_of_nonsense_grew_without_bound() -> None:
    now = [0.0]
    bounded = BoundedLog(most=3, clock=lambda: now[0])

    def record(text: str = "Invalid HTTP request received.") -> logging.LogRecord:
        return logging.LogRecord("x", logging.WARNING, "", 0, text, (), None)

    records = [record() for _ in range(9)]
    assert [bounded.filter(r) for r in records] == [True] * 3 + [False] * 6
    assert "left out" in records[2].getMessage()
    now[0] = 61.0
    assert bounded.filter(record())
    assert bounded.filter(record("another"))


def test_tokens_in_headers_could_be_guessed_as_fast_as_the_server_answers() -> None:
    page = TestClient(_app(TOKEN), base_url="http://127.0.0.1")
    codes = [page.get("/metrics", headers={"Authorization": f"Bearer wrong {n}"}).status_code for n in range(12)]
    assert codes.count(429) >= 6
    assert page.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 429  # it waits, too
    again = TestClient(_app(TOKEN), base_url="http://127.0.0.1")
    assert again.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_hidden_files_of_uploads_stayed_after_a_kill(tmp_path: Path) -> None:
    from virtual_stain.web.serve.root import SlideRoot
    from virtual_stain.web.serve.upload import remove_unfinished

    folder = tmp_path / "uploads"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    for name in (f".upload-{dead.pid}-ab.tiff", f".upload-{os.getpid()}-ab.tiff", "whole.tiff", ".upload-x.tiff"):
        (folder / name).write_bytes(b"x")
    remove_unfinished(SlideRoot(tmp_path))
    kept = {".upload-x.tiff", f".upload-{os.getpid()}-ab.tiff", "whole.tiff"}
    assert {p.name for p in folder.iterdir()} == kept
