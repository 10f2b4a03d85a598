"""Scoring in the browser: the root, the queue, results, uploads; with a real model process where it matters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.fixtures.models import block_slide
from tests.fixtures.web import client, serve_config, serve_of
from virtual_stain.errors import ConfigError
from virtual_stain.web.guard import Access
from virtual_stain.web.problem import ApiError
from virtual_stain.web.serve.app import serve_app
from virtual_stain.web.serve.command import open_office
from virtual_stain.web.serve.jobs import JobStore, NewJob, State
from virtual_stain.web.serve.model_process import write_settings
from virtual_stain.web.serve.registry import Models
from virtual_stain.web.serve.root import SlideRoot
from virtual_stain.web.serve.supervisor import Supervisor

SUBMIT = {"slides": ["one.tiff"], "model": "tiny"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    serve_config(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "served"))


@pytest.fixture
def page(folder: Path) -> TestClient:
    return client(serve_of(folder))


# ---- the root


def test_slides_and_folders_are_listed_and_nothing_else(page: TestClient, folder: Path) -> None:
    (folder / "slides" / ".hidden.svs").write_bytes(b"x")
    listed = page.get("/api/slides").json()
    assert (listed["folders"], [s["path"] for s in listed["slides"]]) == (["case 2"], ["broken.svs", "one.tiff"])
    below = page.get("/api/slides", params={"folder": "case 2"}).json()
    assert [s["path"] for s in below["slides"]] == ["case 2/zwei ü.tiff"]


OUTSIDE = [
    "../secret.tiff",
    "case 2/../../secret.tiff",
    "./one.tiff",
    "case 2//zwei ü.tiff",
    "/etc/passwd",
    "link.tiff",
    "linked/secret.tiff",
    "one.tiff\x00.svs",
    "..\\secret.tiff",
    "\uff0e\uff0e/secret.tiff",
    "\u2025/secret.tiff",
    "..%2fsecret.tiff",
    "%2e%2e/secret.tiff",
    "one.tiff\u202e",
    "notes.txt",
    ".hidden.svs",
    "~/secret.tiff",
    "x" * 5000,
    "",
    "loop/loop/one.tiff",
]


@pytest.mark.parametrize("path", OUTSIDE, ids=range(len(OUTSIDE)))
def test_what_is_not_a_slide_below_the_root_is_refused(page: TestClient, folder: Path, path: str) -> None:
    slides = folder / "slides"
    block_slide(folder / "secret.tiff", [[10]])
    (slides / "link.tiff").symlink_to(folder / "secret.tiff")
    (slides / "linked").symlink_to(folder)
    (slides / "loop").symlink_to(slides / "loop")
    (slides / ".hidden.svs").write_bytes(b"x")
    answer = page.post("/api/jobs", json=SUBMIT | {"slides": [path]})
    assert answer.status_code in (404, 422), path
    assert str(folder) not in answer.text
    with pytest.raises(ApiError):
        SlideRoot(slides).slide(path)
    listed = page.get("/api/slides").json()
    assert "linked" not in listed["folders"]
    assert "link.tiff" not in [s["name"] for s in listed["slides"]]


def test_a_link_inside_the_root_may_be_followed(folder: Path) -> None:
    slides = folder / "slides"
    (slides / "again.tiff").symlink_to(slides / "one.tiff")
    assert SlideRoot(slides).slide("again.tiff") == (slides / "one.tiff").resolve()


def test_models_have_names_of_their_own(folder: Path) -> None:
    assert Models.of(["m/ki67/1", "er=x/y", "grpc://host:8500/pr"]).places.keys() == {"ki67", "er", "pr"}
    with pytest.raises(ConfigError, match="different names"):
        Models.of(["a/ki67", "b/ki67"])
    with pytest.raises(ConfigError, match="expected a model"):
        Models.of([])
    told = {m.id: m for m in Models.of([f"good={folder / 'model'}", f"bad={folder}"]).listing()}
    assert (told["good"].markers, told["good"].problem) == (["Ki67"], None)
    assert told["bad"].problem


# ---- the queue


def test_jobs_wait_in_order_and_can_be_cancelled(page: TestClient) -> None:
    jobs = page.post("/api/jobs", json=SUBMIT | {"slides": ["one.tiff", "case 2/zwei ü.tiff", "one.tiff"]}).json()[
        "jobs"
    ]
    assert [(j["slide"], j["name"], j["state"], j["ahead"]) for j in jobs] == [
        ("one.tiff", "one", "queued", 0),
        ("case 2/zwei ü.tiff", "zwei ü", "queued", 1),
    ]
    number = jobs[0]["id"]
    assert page.get(f"/api/jobs/{number}/result").status_code == 409
    assert page.delete(f"/api/jobs/{number}").json()["state"] == "cancelled"
    assert page.delete(f"/api/jobs/{number}").json()["state"] == "cancelled"
    assert [j["state"] for j in page.get("/api/jobs").json()["jobs"]] == ["queued", "cancelled"]
    assert page.get("/api/jobs/999").status_code == 404
    assert page.post("/api/jobs", json=SUBMIT | {"model": "other"}).status_code == 422
    assert page.post("/api/jobs", json=SUBMIT | {"mpp_um": [0, 1]}).status_code == 422


def test_the_queue_has_an_end(folder: Path) -> None:
    page = client(serve_of(folder, max_queued_slides=1))
    assert page.post("/api/jobs", json=SUBMIT).status_code == 201
    assert page.post("/api/jobs", json=SUBMIT).status_code == 429


def test_a_model_process_that_ended_leaves_its_job_to_the_next(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    (number,) = store.submit([NewJob("a.svs", "a", "m")], limit=9) or []
    for attempt in (1, 2):
        job = store.claim()
        assert job is not None
        assert (job.id, job.attempts) == (number, attempt)
        assert store.claim() is None
        store.report(number, "scoring", 5, 10, time.time() - 5)
        running = store.get(number)
        assert running is not None
        assert running.remaining_s == pytest.approx(5, abs=1)
        JobStore(tmp_path).take_up()
    job = store.get(number)
    assert job is not None
    assert job.state is State.FAILED
    assert "ended 2 times" in job.message


def test_a_stop_of_the_server_is_no_attempt_and_a_cancel_outlives_it(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    one, two = store.submit([NewJob("a.svs", "a", "m"), NewJob("b.svs", "b", "m")], limit=9) or []
    store.claim()
    store.put_back(one)
    first = store.get(one)
    assert first is not None
    assert (first.state, first.attempts) == (State.QUEUED, 0)
    store.claim()
    store.cancel(one)
    assert store.report(one, "", 0, None, None)
    store.take_up()
    states = [j.state for j in store.listing(limit=9)]
    assert states == [State.QUEUED, State.CANCELLED]
    assert two > one


def test_a_restart_of_the_server_is_no_attempt(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    (number,) = store.submit([NewJob("a.svs", "a", "m")], limit=9) or []
    for _ in range(3):  # three times the server goes down in the middle of the slide
        store.claim()
        store.put_all_back()
        store.take_up()
    job = store.get(number)
    assert job is not None
    assert (job.state, job.attempts) == (State.QUEUED, 0)


def test_a_model_server_that_refuses_is_asked_anew_by_the_next_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fixtures.models import TinyPredictor
    from virtual_stain.errors import ModelError
    from virtual_stain.web.serve import model_process

    opened: list[object] = []

    def open_predictor(model: str, settings: object) -> TinyPredictor:
        opened.append(settings)
        return TinyPredictor()

    def refuse(*_: object, **__: object) -> None:
        raise ModelError("version 1 is not loaded any more.")

    out = folder / "out"
    out.mkdir()
    config = serve_config(folder)
    office = open_office(out, config)
    write_settings(out, config, office.root.folder, office.models.places, 1)
    monkeypatch.setattr(model_process, "open_predictor", open_predictor)
    monkeypatch.setattr(model_process, "score_slides", refuse)
    process = model_process.ModelProcess(out)
    for _ in range(2):
        office.jobs.submit([NewJob("one.tiff", "one", "tiny")], limit=9)
        job = process.store.claim()
        assert job is not None
        process.score(job)
    assert opened == [config.scoring, config.scoring]  # not the one that was refused, and with the settings
    assert office.jobs.counts()[State.FAILED] == 2


# ---- uploads


def test_uploads_are_off_unless_turned_on(page: TestClient) -> None:
    assert page.put("/api/uploads/new.tiff", content=b"x", headers=_OCTETS).status_code == 403


_OCTETS = {"content-type": "application/octet-stream"}


def test_an_upload_is_kept_only_when_it_opens(folder: Path) -> None:
    page = client(serve_of(folder, uploads=True, upload_max_mb=5))
    data = (folder / "slides" / "one.tiff").read_bytes()
    put = lambda name, body: page.put(f"/api/uploads/{name}", content=body, headers=_OCTETS)  # noqa: E731
    assert put("neu ü.tiff", data).json() == {"path": "uploads/neu ü.tiff", "bytes": len(data)}
    assert (folder / "slides" / "uploads" / "neu ü.tiff").read_bytes() == data
    assert put("neu ü.tiff", data).status_code == 409
    assert put("bad.tiff", b"II*\0" + b"nonsense" * 50).status_code == 422
    assert put("page.html", data).status_code == 415
    assert put(".x.tiff", data).status_code == 415
    assert put("a%2fb.tiff", data).status_code in (404, 415)
    assert put("big.tiff", b"x" * 5_000_001).status_code == 413
    assert [p.name for p in (folder / "slides" / "uploads").iterdir()] == ["neu ü.tiff"]
    (folder / "slides" / "uploads" / "neu ü.tiff").unlink()
    (folder / "slides" / "uploads").rmdir()
    (folder / "slides" / "uploads").symlink_to(folder)
    assert put("out.tiff", data).status_code == 403
    assert not (folder / "out.tiff").exists()


# ---- with the model process


def _wait(page: TestClient, number: int, *states: str, seconds: float = 90) -> dict:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = page.get(f"/api/jobs/{number}").json()
        if job["state"] in states:
            return dict(job)
        time.sleep(0.1)
    raise AssertionError(job)


def test_a_slide_is_scored_looked_at_and_downloaded_and_a_killed_process_comes_back(folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    config = serve_config(folder)
    office = open_office(out, config)
    write_settings(out, config, office.root.folder, office.models.places, 1)
    supervisor = Supervisor(out)
    with client(serve_app(office, Access("127.0.0.1"), supervisor)) as page:
        body = SUBMIT | {"slides": ["one.tiff", "broken.svs"]}
        one, broken = (j["id"] for j in page.post("/api/jobs", json=body).json()["jobs"])
        done = _wait(page, one, "done", "failed")
        assert done["state"] == "done", done
        failed = _wait(page, broken, "failed", "done")
        assert failed["message"].startswith("broken.svs: ")
        assert str(folder) not in failed["message"]

        result = page.get(f"/api/jobs/{one}/result").json()
        reading = result["report"]["readings"]["ki67"]
        values = [v for v, used in zip(*(result["tiles"]["columns"][k] for k in ("ki67", "used")), strict=True) if used]
        assert reading["global_mean"] == pytest.approx(sum(values) / len(values), abs=1e-5)
        assert result["report"]["slide"]["path"] == "one.tiff"
        tile = page.get(f"/api/jobs/{one}/tiles/0/0.jpg", params={"px": 64})
        assert tile.headers["content-type"] == "image/jpeg"
        assert page.get(f"/api/jobs/{one}/tiles/99/0.jpg").status_code == 404
        assert page.get(f"/api/jobs/{one}/overview.jpg").content[:2] == b"\xff\xd8"
        for kind in ("report.json", "tiles.csv", "geojson", "heatmap.png", "report.html"):
            file = page.get(f"/api/jobs/{one}/files/{kind}")
            assert f'filename="one.{kind}"' in file.headers["content-disposition"]
            assert file.headers["content-security-policy"].startswith("sandbox")
            assert len(file.content) > 100
            assert str(folder).encode() not in file.content
        assert json.loads(page.get(f"/api/jobs/{one}/files/report.json").text)["slide"]["path"] == "one.tiff"

        shutil.copy(folder / "slides" / "one.tiff", folder / "slides" / "other")
        (folder / "slides" / "other").replace(folder / "slides" / "one.tiff")  # another file under the same name
        replaced = page.get(f"/api/jobs/{one}/tiles/0/0.jpg")
        assert (replaced.status_code, "replaced" in replaced.json()["message"]) == (409, True)
        assert page.get(f"/api/jobs/{one}/files/report.html").status_code == 200

        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        number = page.post("/api/jobs", json=SUBMIT).json()["jobs"][0]["id"]
        assert _wait(page, number, "done", "failed")["state"] == "done"
        assert supervisor.restarts == 1
        assert "vstain_jobs_done 2.0" in page.get("/metrics").text
    assert JobStore(out).counts()[State.DONE] == 2


def test_the_web_process_never_loads_tensorflow() -> None:
    import subprocess
    import sys

    script = (
        "import sys, virtual_stain.web.serve.app, virtual_stain.web.serve.command, virtual_stain.web.review.command\n"
        "heavy = [m for m in ('tensorflow', 'keras') if m in sys.modules]\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
