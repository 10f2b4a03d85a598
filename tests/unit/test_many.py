"""The runner of many slides: outcomes, resume, workers that die, names; and `vstain count` over many."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import pytest

from tests.fixtures.counting import FieldStyle, stained_field
from virtual_stain.cli.main import _run
from virtual_stain.errors import ConfigError, InputError, OutputError
from virtual_stain.slides.collection import expand, found_slides, refuse_equal_names, told_apart
from virtual_stain.slides.slide import SlideRef
from virtual_stain.workflows.many import Done, Finished, Task, batch_error, run_many, telling
from virtual_stain.workflows.scheduling import open_workers
from virtual_stain.workflows.slurm import slurm_arguments

CALLS: list[str] = []


def work(path: Path) -> Finished:
    CALLS.append(path.name)
    if path.name.startswith("bad"):
        raise InputError(f"{path}: damaged")
    if path.name.startswith("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    result = path.parent / "out" / f"{path.stem}.txt"
    result.parent.mkdir(exist_ok=True)
    result.write_text(path.read_text())
    return Finished({"text": path.read_text()}, (result,))


def tasks(folder: Path, *names: str, request: str | None = "r") -> list[Task[Path]]:
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_text(name)
    (folder / "out").mkdir(exist_ok=True)
    return [Task(name.partition(".")[0], folder / name, (folder / name,), request) for name in names]


def run(folder: Path, some: list[Task[Path]], jobs: int = 1, **how: bool) -> dict[str, Done]:
    CALLS.clear()
    with open_workers(jobs) as workers:
        return {d.name: d for d in run_many(some, work, workers, folder / "out", **how)}


def test_a_failed_slide_stops_no_other_and_what_is_done_is_kept(tmp_path: Path) -> None:
    some = tasks(tmp_path, "a.svs", "bad.svs", "c.svs")
    done = run(tmp_path, some)
    assert {n: d.status for n, d in done.items()} == {"a": "done", "bad": "failed", "c": "done"}
    assert done["bad"].reason.endswith("damaged")
    again = run(tmp_path, some)
    assert CALLS == ["bad.svs"]
    assert {n: (d.status, d.row) for n, d in again.items() if d.ok} == {
        "a": ("kept", {"text": "a.svs"}),
        "c": ("kept", {"text": "c.svs"}),
    }
    assert batch_error(list(again.values()), "counted", Path("index.html")).exit_code == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("change", ["slide", "result", "gone", "request", "force"])
def test_anything_that_changed_is_asked_of_the_stage(tmp_path: Path, change: str) -> None:
    run(tmp_path, tasks(tmp_path, "a.svs", "b.svs"))
    target = {"slide": tmp_path / "a.svs", "result": tmp_path / "out" / "a.txt"}.get(change)
    if target is not None:
        state = target.stat()
        target.write_text(target.read_text()[::-1])  # the same size, and the time of the content set back
        os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))
    if change == "gone":
        (tmp_path / "out" / "a.txt").unlink()
    request = "other" if change == "request" else "r"
    run(tmp_path, tasks(tmp_path, "a.svs", "b.svs", request=request), force=change == "force")
    assert (["a.svs", "b.svs"] if change in ("request", "force") else ["a.svs"]) == CALLS


def test_a_slide_of_many_files_is_never_kept_by_the_look_of_one(tmp_path: Path) -> None:
    some = tasks(tmp_path, "a.mrxs")
    run(tmp_path, some)
    run(tmp_path, some)
    assert CALLS == ["a.mrxs"]


def test_a_torn_journal_costs_work_and_no_result(tmp_path: Path) -> None:
    some = tasks(tmp_path, "a.svs", "b.svs")
    run(tmp_path, some)
    journal = tmp_path / "out" / ".done.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert all(d.ok for d in run(tmp_path, some).values())
    assert CALLS == ["b.svs"]


@pytest.mark.parametrize("damage", [(b'"row": {', b'"row": {"ratio": 0.9, '), (b"{", b"[" * 100_000 + b"{")])
def test_a_damaged_journal_was_believed(tmp_path: Path, damage: tuple[bytes, bytes]) -> None:
    """A number in a journal's row goes into the table; a nest of brackets was a traceback."""
    some = tasks(tmp_path, "a.svs", "b.svs")
    run(tmp_path, some)
    journal = tmp_path / "out" / ".done.jsonl"
    sound = journal.read_bytes()
    journal.write_bytes(sound.replace(*damage, 1))
    assert journal.read_bytes() != sound
    CALLS.clear()
    assert all(d.ok and "ratio" not in d.row for d in run(tmp_path, some).values())
    assert CALLS == ["a.svs"]


def test_fail_fast_leaves_the_rest_pending_by_name(tmp_path: Path) -> None:
    done = run(tmp_path, tasks(tmp_path, "a.svs", "bad.svs", "c.svs"), fail_fast=True)
    assert {n: d.status for n, d in done.items()} == {"a": "done", "bad": "failed", "c": "pending"}
    assert "--fail-fast" in done["c"].outcome.reason


def test_a_slide_that_kills_its_worker_is_an_outcome_and_the_others_are_done(tmp_path: Path) -> None:
    done = run(tmp_path, tasks(tmp_path, "a.svs", "kills.svs", "c.svs", "d.svs"), jobs=2)
    assert {n: d.status for n, d in done.items()} == {"a": "done", "kills": "failed", "c": "done", "d": "done"}
    assert "died twice" in done["kills"].reason


def test_slides_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("x/a/1.svs", "y/a/1.svs", "b/1.svs", "b/2.svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = {r.path.relative_to(tmp_path).as_posix(): r.stem for r in found_slides(tmp_path, mpp=None)}
    assert names == {"x/a/1.svs": "x-a-1", "y/a/1.svs": "y-a-1", "b/1.svs": "b-1", "b/2.svs": "2"}
    same = told_apart([SlideRef(tmp_path / "b" / "1.svs"), SlideRef(tmp_path / "b" / "1.tif")])
    with pytest.raises(ConfigError, match="different names"):
        refuse_equal_names(same)


def test_what_is_left_out_is_counted_and_named_and_a_link_is_followed_once(tmp_path: Path) -> None:
    for name in ("in/a.svs", "in/.b.svs", "in/notes.txt", "in/c/c.svs", "in/done/overlay.ome.tif", "in/done/run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "in" / "d").symlink_to(tmp_path / "in" / "c")
    said: list[str] = []
    assert [p.name for p in expand(tmp_path / "in", said.append)] == ["a.svs", "c.svs"]
    assert "2 of 6 files taken" in said[0]
    for name in (".b.svs", "notes.txt", "overlay.ome.tif"):
        assert name in said[0]
    assert "in/d" in said[1]


def test_a_table_that_cannot_be_written_is_an_error_and_hides_no_first_one() -> None:
    def tell() -> None:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="full"), telling(tell):
        pass
    with pytest.raises(KeyboardInterrupt), telling(tell):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "text", ["slurm:", "slurm:partition=a", "slurm:cores=2", "slurm:partition=a,cores=0", "slurm:partition=a,core=2"]
)
def test_a_wrong_slurm_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="partition") as caught:
        slurm_arguments(text)
    assert "slurm:partition=cpu,cores=16" in str(caught.value)


# --- vstain count over many -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("field") / "f.png"
    cv2.imwrite(str(path), stained_field(100.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb[:, :, ::-1])
    return path


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "counts.csv").open(encoding="utf-8", newline="") as stream:
        return {r["slide"]: r for r in csv.DictReader(stream)}


def count(*words: str | Path) -> int:
    return _run(["count", *map(str, words), "-q", "--jobs", "1"])


def test_count_takes_a_folder_and_goes_on_from_where_it_was(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides, out = tmp_path / "in", tmp_path / "out"
    for name in ("a/1.png", "b/1.png"):
        (slides / name).parent.mkdir(parents=True)
        shutil.copy(field, slides / name)
    (slides / "bad.png").write_bytes(b"no slide")
    command = (slides, "--marker", "ki67", "--mpp", "0.5", "--out", out)
    assert count(*command) == 6
    assert "1 of 3 slides could not be counted" in capsys.readouterr().err
    table = rows(out)
    assert {n: r["status"] for n, r in table.items()} == {"a-1": "ok", "b-1": "ok", "bad": "failed"}
    summary = json.loads((out / "a-1" / "summary.json").read_text())
    assert float(table["a-1"]["tumour_ratio"]) == summary["tumour"]["ratio"]
    page = (out / "index.html").read_text()
    assert page.index(">bad<") < page.index('href="a-1/count.html"')
    record = json.loads((out / "run.json").read_text())
    assert [(o["name"], o["ok"]) for o in record["outcomes"]] == [("a-1", True), ("b-1", True), ("bad", False)]
    (slides / "bad.png").unlink()
    before = (out / "a-1" / "run.json").stat().st_mtime_ns
    assert count(slides / "a" / "*.png", "--marker", "ki67", "--mpp", "0.5", "--out", out) == 0
    assert {n: r["status"] for n, r in rows(out).items()} == {"1": "ok", "a-1": "earlier", "b-1": "earlier"}
    assert count(*command) == 0
    assert (out / "a-1" / "run.json").stat().st_mtime_ns == before
    # another slide of a name that is taken, in another call: its results do not take the place of the first one's
    other = tmp_path / "other" / "1.png"
    other.parent.mkdir()
    cv2.imwrite(str(other), cv2.imread(str(field))[:150])
    assert count(tmp_path / "other", "--marker", "ki67", "--mpp", "0.5", "--out", out) == 3
    assert "another run's output" in capsys.readouterr().err


def test_count_takes_a_table_that_states_the_marker_of_each_slide(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,marker,mpp,roi,cells,name\n{field},er,0.5,,,first\n{field},,0.5,,,second\n")
    assert count(table, "--out", tmp_path / "out") == 3
    assert "line 3: marker" in capsys.readouterr().err
    table.write_text(f"slide,marker,mpp,roi,cells,name\n{field},er,0.5,none.geojson,,first\n")
    assert count(table, "--out", tmp_path / "out") == 3
    assert "line 2: roi" in capsys.readouterr().err
    table.write_text(f"slide,marker,mpp,roi,cells,name\n{field},er,0.5,,,first\n{field},pr,0.5,,,second\n")
    assert count("--slides", table, "--out", tmp_path / "out") == 0
    assert {n: r["marker"] for n, r in rows(tmp_path / "out").items()} == {"first": "er", "second": "pr"}


def test_one_counted_slide_keeps_its_folder(field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert count(field, "--marker", "ki67", "--mpp", "0.5", "--out", out) == 0
    assert (out / "count.html").is_file()
    assert count(field.parent, "--marker", "ki67", "--mpp", "0.5", "--out", out) == OutputError.exit_code
    assert "that of one counted slide" in capsys.readouterr().err
    assert count(field.parent, "--mpp", "0.5", "--out", tmp_path / "new") == ConfigError.exit_code
    words = (field.parent, "--marker", "ki67", "--mpp", "0.5", "--out", tmp_path / "new")
    assert count(*words, "--roi", field) == ConfigError.exit_code  # one region drawn on one slide
