"""Attacks on the web servers and on what they read: does anything get out, get in, or fall over?

    python tools/harness/attacks.py OUT

Every attack is a name and a function that returns sentences; none when the attack failed as it should. Servers answer
in this process, over real sockets where connections are the attack. Ends with 1 where an attack worked.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx2 import InvalidURL

sys.path.insert(0, str(Path(__file__).parents[2]))

SECRET = "SECRET-OF-ANOTHER-PATIENT"
TOKEN = "a token of more than 16 characters"
_FREE_TEXTS: dict[str, tuple[object, ...]] = {
    "reviewer": ("../x", "<script>", "';--"),
    "reason": ("", "../x", "<script>", "';--"),
    "request_id": (None,),
}
"""What is only text there, and may be anything."""
_OCTETS = {"Content-Type": "application/octet-stream"}
_INDEX = "[Virtual Microscope Specimen]\n   NoLayers=1\n   ImageFile={image}\n\tImageFile(0,0)={image}\n"


@dataclass(frozen=True)
class Place:
    """A server's folder with something beside it that nobody may see."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "slides"

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    def serve(self, **settings: Any) -> Any:
        from tests.fixtures.web import client, serve_of

        return client(serve_of(self.folder, **settings))


def make_place(folder: Path) -> Place:
    """Makes the root, a slide outside of it, and ways that lead there."""
    from tests.fixtures.models import block_slide
    from tests.fixtures.web import serve_config

    place = Place(folder.resolve())
    place.folder.mkdir(parents=True, exist_ok=True)
    serve_config(place.folder)
    place.outside.mkdir(exist_ok=True)
    block_slide(place.outside / "secret.tiff", [[120]])
    (place.outside / "secret.txt").write_text(SECRET)
    for name, target in (("link.tiff", "secret.tiff"), ("folder", "."), ("loop.tiff", None)):
        link = place.root / name
        if not link.is_symlink():
            link.symlink_to(place.root / "loop.tiff" if target is None else place.outside / target)
    (place.root / "index.vms").write_text(_INDEX.format(image="../outside/secret.tiff"))
    (place.root / "absolute.vms").write_text(_INDEX.format(image=place.outside / "secret.tiff"))
    (place.root / "named.tif").write_text(_INDEX.format(image="../outside/secret.tiff"))
    (place.root / "mirax").mkdir(exist_ok=True)
    (place.root / "mirax.mrxs").write_text("x")
    (place.root / "mirax" / "Slidedat.ini").write_text("[DATAFILE]\n  FILE_0 = ../../outside/secret.tiff\n")
    return place


def paths() -> list[str]:
    """Ways to say a path that is not below the root."""
    ways = ["../outside/secret.tiff", "..%2foutside%2fsecret.tiff", "%2e%2e/outside/secret.tiff", "folder/secret.tiff"]
    ways += [
        "/etc/passwd",
        "//etc/passwd",
        "one.tiff/../../outside/secret.tiff",
        "..\\outside\\secret.tiff",
        "~/x.tiff",
    ]
    ways += ["link.tiff", "loop.tiff", "index.vms", "absolute.vms", "named.tif", "mirax.mrxs", "one.tiff\0.txt"]
    ways += ["．．/outside/secret.tiff", "..;/outside/secret.tiff", "./one.tiff", "one.tiff/", ".hidden.tiff"]
    ways += ["\u202eone.tiff", "a" * 2000 + ".tiff", "file:///etc/passwd", "/proc/self/environ", "case 2/../one.tiff"]
    return ways


def what_is_allowed_works(place: Place) -> Iterator[str]:
    """Without this the other attacks could fail for another reason."""
    page = place.serve(uploads=True, upload_max_mb=5)
    if page.post("/api/jobs", json={"slides": ["one.tiff"], "model": "tiny"}).status_code != 201:
        yield "a job of a slide below the root was refused"
    if "one.tiff" not in page.get("/api/slides").text:
        yield "the root is not listed"
    answer = page.put("/api/uploads/good.tiff", content=(place.root / "one.tiff").read_bytes(), headers=_OCTETS)
    if answer.status_code != 201:
        yield f"a sound upload was refused: {answer.status_code}"
    (place.root / "uploads" / "good.tiff").unlink(missing_ok=True)
    locked = place.serve(token=TOKEN)
    if locked.get("/api/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code != 200:
        yield "the right token was refused"


def slides_outside_the_root(place: Place) -> Iterator[str]:
    page = place.serve()
    for way in paths():
        answer = page.post("/api/jobs", json={"slides": [way], "model": "tiny"})
        if answer.status_code < 400:
            yield f"a job was taken for {way!r}"
        if answer.status_code >= 500:
            yield f"{way!r}: {answer.status_code}"
        yield from _leaks(place, f"job for {way!r}", answer)


def folders_outside_the_root(place: Place) -> Iterator[str]:
    page = place.serve()
    for way in [*paths(), "..", "folder", "/", "case 2/..", ""]:
        answer = page.get("/api/slides", params={"folder": way})
        if answer.status_code >= 500 or "secret" in answer.text:
            yield f"{way!r}: {answer.status_code} {answer.text[:80]}"
        yield from _leaks(place, f"folder {way!r}", answer)


def files_by_url(place: Place) -> Iterator[str]:
    page = place.serve()
    for way in paths():
        for prefix in ("/static/", "/api/jobs/1/files/", "/api/", "/"):
            try:
                answer = page.get(prefix + way)
            except InvalidURL:  # no URL at all: the client does not send it
                continue
            if answer.status_code >= 500 or SECRET in answer.text or "root:" in answer.text:
                yield f"{prefix + way!r}: {answer.status_code}"


def hostile_uploads(place: Place) -> Iterator[str]:
    page = place.serve(uploads=True, upload_max_mb=1)
    index = _INDEX.format(image="../../outside/secret.tiff").encode()
    dicom = bytes(128) + b"DICM" + bytes(500)
    tiff = (place.outside / "secret.tiff").read_bytes()
    bodies = {
        "index.vms": index,
        "index.tif": index,
        "index.svs": index,
        "a.mrxs": b"x",
        "a.dcm": dicom,
        "a.tif": dicom,
    }
    bodies |= {
        "../x.tif": tiff,
        "..%2fx.tif": tiff,
        ".x.tif": tiff,
        "x.tif\0": tiff,
        "x.html": b"<script>",
        "x.tif": b"",
    }
    bodies |= {"<script>.tif": b"II*\0" + bytes(100), "big.tif": bytes(2_000_000)}
    for name, body in bodies.items():
        try:
            answer = page.put(f"/api/uploads/{name}", content=body, headers=_OCTETS)
        except InvalidURL:  # no URL at all: the client does not send it
            continue
        if answer.status_code < 400 or answer.status_code >= 500:
            yield f"upload of {name!r}: {answer.status_code}"
    kept = [p.name for p in (place.root / "uploads").glob("*")] if (place.root / "uploads").exists() else []
    if kept:
        yield f"kept after refused uploads: {kept}"
    if any(p.name == "x.tif" for p in place.folder.rglob("x.tif")):
        yield "an upload was written somewhere"


def an_upload_folder_that_leads_outside(place: Place) -> Iterator[str]:
    import shutil

    shutil.rmtree(place.root / "uploads", ignore_errors=True)
    (place.root / "uploads").symlink_to(place.outside)
    try:
        page = place.serve(uploads=True, upload_max_mb=1)
        data = (place.root / "one.tiff").read_bytes()
        answer = page.put("/api/uploads/new.tiff", content=data, headers=_OCTETS)
        if answer.status_code < 400 or (place.outside / "new.tiff").exists():
            yield f"an upload went through a link: {answer.status_code}"
    finally:
        (place.root / "uploads").unlink()


def other_names_and_other_sites(place: Place) -> Iterator[str]:
    page = place.serve()
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:80",
        "",
        "[::1",
        "a@b",
    ):
        answer = page.get("/api/models", headers={"Host": host})
        if answer.status_code < 400:
            yield f"served under the name {host!r}"
    body = {"slides": ["one.tiff"], "model": "tiny"}
    forged = [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
    forged += [
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://127.0.0.1:99"},
    ]
    for headers in forged:
        if page.post("/api/jobs", json=body, headers=headers).status_code != 403:
            yield f"a job was taken from {headers}"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = page.post(
            "/api/jobs", content=b'{"slides": ["one.tiff"], "model": "tiny"}', headers={"Content-Type": kind}
        )
        if answer.status_code < 400:
            yield f"a job was taken as {kind!r}"
    answer = page.options(
        "/api/jobs", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    if "access-control-allow-origin" in {k.lower() for k in answer.headers}:
        yield "another site is allowed to read answers"


def without_the_token(place: Place) -> Iterator[str]:
    page = place.serve(token=TOKEN)
    for path in (
        "/",
        "/api/slides",
        "/api/models",
        "/api/jobs",
        "/metrics",
        "/api/openapi.json",
        "/jobs/1",
        "/api/jobs/1",
    ):
        for query in ("", f"?token={TOKEN}", f"?access_token={TOKEN}"):
            answer = page.get(path + query)
            if answer.status_code not in (401, 404):
                yield f"{path}{query[:8]}: {answer.status_code}"
    for path in (
        "/static/../api/models",
        "/static/%2e%2e/api/models",
        "//api/models",
        "/API/models",
        "/login/../api/jobs",
    ):
        answer = page.get(path)
        if answer.status_code == 200 and "tiny" in answer.text:
            yield f"{path}: served"
    forged = [
        {"Cookie": "vstain_session="},
        {"Cookie": "vstain_session=x; vstain_session="},
        {"Authorization": "Bearer "},
    ]
    forged += [
        {"Authorization": "Basic dTpw"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"X-Forwarded-For": "127.0.0.1"},
    ]
    for headers in forged:
        if page.get("/api/models", headers=headers).status_code == 200:
            yield f"let in with {headers}"


def guessing_the_token(place: Place) -> Iterator[str]:
    for header in (True, False):
        page = place.serve(token=TOKEN)
        codes = []
        for number in range(40):
            extra = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"}
            if header:
                answer = page.get("/api/models", headers={"Authorization": f"Bearer {number:020d}", **extra})
            else:
                form = {"Content-Type": "application/x-www-form-urlencoded", **extra}
                answer = page.post("/login", content=f"token={number:020d}".encode(), headers=form)
            codes.append(answer.status_code)
        if codes.count(429) < 30:
            yield f"{'headers' if header else 'the login page'}: {40 - codes.count(429)} of 40 guesses were answered"


def hostile_bodies(place: Place) -> Iterator[str]:
    page = place.serve()
    sound = '{"slides": ["one.tiff"], "model": "tiny", "mpp_um": %s}'
    texts = [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        "1" * 5000,
        '{"slides": {}, "model": 1}',
        '{"slides": [], "model": "tiny"}',
    ]
    texts += [
        sound % value for value in ("NaN", "[1e999, 1]", "[0, 0]", "[-1, 1]", '["a", "b"]', "[1, 2, 3]", "9" * 5000)
    ]
    texts += [
        '{"slides": ["one.tiff"], "model": "../model"}',
        '{"slides": ["\\ud800.tiff"], "model": "tiny"}',
        "\ufeff{}",
    ]
    texts += [
        '{"slides": ["one.tiff"], "model": "tiny", "more": 1}',
        '{"slides": %s, "model": "tiny"}' % (["x.tiff"] * 5000),
    ]
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        answer = page.post("/api/jobs", content=data, headers={"Content-Type": "application/json"})
        if not 400 <= answer.status_code < 500:
            yield f"{text[:60]!r}: {answer.status_code}"
    raw = b'\xff\xfe{"slides": 1}'
    if not 400 <= page.post("/api/jobs", content=raw, headers={"Content-Type": "application/json"}).status_code < 500:
        yield "bytes that are no text were taken"
    for length in ("-1", "99999999999999999999", "x", "1e9"):
        headers = {"Content-Type": "application/json", "Content-Length": length}
        answer = page.post("/api/jobs", content=b"{}", headers=headers)
        if not 400 <= answer.status_code < 500:
            yield f"Content-Length {length}: {answer.status_code}"
    for path in ("/api/jobs/0", "/api/jobs/-1", "/api/jobs/99999999999999999999", "/api/jobs/1e3", "/api/jobs?limit=0",
                 "/api/jobs?before=x", "/api/jobs/1/tiles/999999999999/0.jpg", "/api/jobs/1/files/../x"):  # fmt: skip
        if not 400 <= page.get(path).status_code < 500:
            yield f"{path}: {page.get(path).status_code}"


def hostile_verdicts(place: Place) -> Iterator[str]:
    from tests.fixtures.review import tiny_review
    from tests.fixtures.web import client, review_of
    from virtual_stain.labels.store import TileStore

    folder = place.folder / "records"
    if not folder.exists():
        tiny_review(folder, pairs=1, tiles=3, tile_px=64)
    page = client(review_of(folder))
    with TileStore(folder / "work" / "case-01" / "tiles.h5") as store:
        label_id = store.tile(0).label_id
    sound = {"pair": "case-01", "col": 0, "row": 0, "label_id": label_id, "verdict": "accept", "reviewer": "me"}
    if page.post("/api/review/decisions", json=sound).status_code != 201:
        yield "a sound verdict was refused: the attacks beside it say nothing"
    if page.get("/api/review/pairs/case-01/export.geojson").status_code != 200:
        yield "a sound export was refused: the attacks beside it say nothing"
    for name in ("pair", "col", "row", "label_id", "verdict", "reviewer", "reason", "request_id"):
        for value in (None, "", "../x", 10**30, -1, [], {}, True, "x" * 100_000, "\0", "<script>", "';--"):
            answer = page.post("/api/review/decisions", json=sound | {name: value})
            if answer.status_code >= 500 or (answer.status_code == 201 and value not in _FREE_TEXTS.get(name, ())):
                yield f"{name} = {str(value)[:20]!r}: {answer.status_code}"
    for way in ("..", "../../etc", "%2e%2e", "case-01%2f..", "case-01\0", "CASE-01", "a" * 3000):
        for path in (f"/api/review/pairs/{way}/overview.jpg", f"/api/review/pairs/{way}/export.geojson"):
            try:
                answer = page.get(path)
            except InvalidURL:
                continue
            if answer.status_code >= 500 or answer.status_code == 200:
                yield f"{path[:60]!r}: {answer.status_code}"
    for text in ("[" * 100_000, '"' * 200_000, "pair,col,row\n=1+1,0,0", "\0", "9" * 5000, "{}"):
        for kind in ("csv", "geojson"):
            answer = page.post("/api/review/import", json={"format": kind, "text": text})
            if answer.status_code >= 500 or (answer.status_code == 201 and answer.json()["imported"]):
                yield f"import of {kind} {text[:20]!r}: {answer.status_code}"


def names_that_are_programs(place: Place) -> Iterator[str]:
    """A slide whose name is HTML, a formula or an escape: in pages, tables and terminals it is a name."""
    from tests.fixtures.models import TinyPredictor, tissue_slide
    from virtual_stain.scoring.inputs import collect_inputs
    from virtual_stain.workflows.score_many import score_slides
    from virtual_stain.workflows.score_slides import ScoreOptions

    names = ("<img src=x onerror=alert(1)>", "=HYPERLINK('x')", "'\"><script>alert(1)<!--", "{{7*7}}", "a\x1b[2Jb")
    work = place.folder / "names"
    work.mkdir(exist_ok=True)
    out = place.folder / "names-out"
    slides = []
    for number, name in enumerate(names):
        slides.append(tissue_slide(work / f"{name.replace('/', '_')}.tiff", 120 + number, size=4))
    score_slides(collect_inputs(slides, None, out=out, mpp=None), ScoreOptions(model="x"), predictor=TinyPredictor())
    for path in out.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        if "<img src=x" in text or "<script>alert" in text or text.strip() == "49":
            yield f"{path.name!r} runs a name"
    table = (out / "scores.csv").read_text(encoding="utf-8")
    if any(line.startswith(("=", "+", "-", "@")) for line in table.splitlines()):
        yield "scores.csv holds a formula"


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[tuple[str, int]]:
    """A server on a port of its own, as `vstain serve` runs it."""
    from tests.fixtures.web import serve_of
    from virtual_stain.config import WebSettings
    from virtual_stain.web.server import listen, server_of

    sock = listen(WebSettings(port=0))
    server = server_of(serve_of(place.folder))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()


def half_open_connections(place: Place) -> Iterator[str]:
    """Headers that never end, by the hundred: the health check is answered all the same."""
    from virtual_stain.web.connections import BoundedLog

    told = _Told()
    filters = (BoundedLog(), told)
    for each in filters:
        logging.getLogger("uvicorn.error").addFilter(each)
    held: list[socket.socket] = []
    starts = (
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /api/jobs HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
    )
    try:
        with _listening(place) as address:
            for number in range(600):
                connection = socket.create_connection(address, timeout=10)
                held.append(connection)
                with contextlib.suppress(OSError):  # it gave way already
                    connection.sendall(starts[number % 3])
            began = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{address[1]}/healthz", timeout=20) as answer:
                if answer.status != 200 or time.monotonic() - began > 10:
                    yield f"the health check took {time.monotonic() - began:.1f} s"
            if told.lines > 50:
                yield f"{told.lines} lines were logged"
            for connection in held:
                connection.close()
    except OSError as error:
        yield f"the health check was not answered: {error}"
    finally:
        for connection in held:
            connection.close()
        for each in filters:
            logging.getLogger("uvicorn.error").removeFilter(each)


_JOB = "POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_HIDDEN = "GET /api/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def requests_hidden_in_requests(place: Place) -> Iterator[str]:
    """What a proxy and the server could read in two ways is read in none."""
    bodies = {
        "both lengths": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "unequal lengths": f"Content-Length: 2\r\nContent-Length: {len(_HIDDEN) + 2}\r\n\r\n{{}}",
        "chunked": "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "a folded length": "X: a\r\n Content-Length: 99\r\n\r\n",
        "a bare LF": "X: a\nContent-Length: 99\r\n\r\n",
        "a bare CR": "X: a\rContent-Length: 99\r\n\r\n",
        "two hosts": "Host: evil.example\r\nContent-Length: 2\r\n\r\n{}",
        "a websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: identity\r\n\r\n",
    }
    with _listening(place) as address:
        for kind, body in bodies.items():
            answers = b""
            with socket.create_connection(address, timeout=10) as connection, contextlib.suppress(OSError):
                connection.sendall((_JOB + body + _HIDDEN).encode())
                while piece := connection.recv(1 << 16):
                    answers += piece
            if answers.count(b"HTTP/1.1 ") != 1 or not answers.startswith(b"HTTP/1.1 400"):
                yield f"{kind}: {answers[:60]!r}, {answers.count(b'HTTP/1.1 ')} answers"


class _Told(logging.Filter):
    """Counts the lines that a log takes."""

    lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.lines += 1
        return False


def models_that_reach_outside(place: Place) -> Iterator[str]:
    """A SavedModel that reads, writes or runs; one that is signed for another marker or version."""
    import tensorflow as tf

    from virtual_stain.errors import VerificationError
    from virtual_stain.scoring.allowed_operations import require_allowed
    from virtual_stain.scoring.signature import read_saved_model

    target = place.folder / "written-by-a-model"

    def kinds() -> dict[str, Callable[[Any], Any]]:
        return {
            "reads": lambda text: tf.io.read_file("/etc/passwd"),
            "writes": lambda text: (tf.io.write_file(str(target), text), text)[1],
            "runs": lambda text: tf.py_function(lambda t: t, [text], tf.string),
            "lists": lambda text: tf.strings.reduce_join(tf.io.matching_files("/*")),
            "prints": lambda text: (tf.print(text, output_stream=f"file://{target}"), text)[1],
            "saves": lambda text: (tf.raw_ops.SaveV2(
                prefix=text, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)]), text)[1],
        }  # fmt: skip

    for kind, function in kinds().items():
        module = tf.Module()
        spec = [tf.TensorSpec([], tf.string)]
        module.run = tf.function(function, input_signature=spec, autograph=False)
        folder = place.folder / f"model-that-{kind}"
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.run})
        try:
            require_allowed(read_saved_model(folder), "here")
            yield f"a model that {kind} was allowed"
        except VerificationError:
            pass
    if target.exists():
        yield "a model has written a file"


def _leaks(place: Place, what: str, answer: Any) -> Iterator[str]:
    if SECRET in answer.text or str(place.folder) in answer.text:
        yield f"{what}: the answer tells of this machine: {answer.text[:120]}"


ATTACKS: tuple[Callable[[Place], Iterator[str]], ...] = (
    what_is_allowed_works,
    slides_outside_the_root,
    folders_outside_the_root,
    files_by_url,
    hostile_uploads,
    an_upload_folder_that_leads_outside,
    other_names_and_other_sites,
    without_the_token,
    guessing_the_token,
    hostile_bodies,
    hostile_verdicts,
    names_that_are_programs,
    half_open_connections,
    requests_hidden_in_requests,
    models_that_reach_outside,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    place = make_place(arguments.out)
    bad = 0
    for attack in ATTACKS:
        found = list(attack(place))
        print(
            f"{attack.__name__.replace('_', ' ')}: {'held' if not found else f'{len(found)} got through'}", flush=True
        )
        for text in found:
            print(f"  {text}", flush=True)
        bad += len(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
