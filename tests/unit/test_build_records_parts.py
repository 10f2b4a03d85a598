"""The pieces of build-records that need no slide."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from virtual_stain.config import Config, LabelSettings
from virtual_stain.counting.region import read_region
from virtual_stain.errors import (
    BatchError,
    ConfigError,
    InputError,
    OutputError,
    PairError,
    RejectedError,
    ReviewPendingError,
    SlideError,
    VirtualStainError,
)
from virtual_stain.geometry import Box
from virtual_stain.markers import Marker
from virtual_stain.pairs import StainPair
from virtual_stain.review.gate import Gate, Passed
from virtual_stain.review.verdicts import Decision, Place, Review, Verdict
from virtual_stain.slides.slide import SlideRef
from virtual_stain.tiles import TileRef
from virtual_stain.workflows.ending import error_of, public_reason
from virtual_stain.workflows.output_folder import claim
from virtual_stain.workflows.pair import WORK, PairJob, PreparedPair
from virtual_stain.workflows.part_job import cut, tiles_fingerprint
from virtual_stain.workflows.scheduling import Failure, Workers, completed, open_workers

A = "a" * 32


def _work(n: int) -> int:
    if n == 2:
        raise SlideError("cut off")
    if n == 3:
        raise ValueError("a bug")
    return n * n


def _die(n: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return n


_SLEEPERS = """
import time
from virtual_stain.parallel import local_executor
if __name__ == "__main__":
    with local_executor(2) as pool:
        pids = {pool.submit(os_getpid).result() for os_getpid in [__import__("os").getpid] for _ in range(2)}
        print(*pids, flush=True)
        pool.submit(time.sleep, 100).result()
"""


def test_workers_end_with_a_killed_parent() -> None:
    """A worker that outlived its run wrote parts beside the run that took up its work."""
    process = subprocess.Popen([sys.executable, "-c", _SLEEPERS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert pids
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_failure_does_not_stop_the_rest_and_a_bug_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with open_workers(1) as workers:
        results = dict(completed(workers, _work, range(5)))
    assert [results[n] for n in (0, 1, 4)] == [0, 1, 16]
    slide, bug = results[2], results[3]
    assert isinstance(slide, Failure)
    assert isinstance(slide.error, SlideError)
    assert not slide.unexpected
    assert isinstance(bug, Failure)
    assert bug.unexpected
    assert "unexpected ValueError: a bug" in bug.error.message
    assert "Traceback" in caplog.text


def test_only_so_much_is_submitted_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        return n

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sorted(n for n, _ in completed(Workers(pool, 3), work, iter(range(40)))) == list(range(40))
    assert most <= 3


def test_a_dead_worker_is_an_error_and_no_hang() -> None:
    with pytest.raises(VirtualStainError, match="worker process died"), open_workers(2) as workers:
        list(completed(workers, _die, range(3)))


def test_a_scheduler_without_dask_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match="not installed") as caught, open_workers(1, "tcp://127.0.0.1:1"):
        pass
    assert "[cluster]" in str(caught.value)  # with the command of this installation


def test_a_dask_cluster_does_the_work() -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed (extra: cluster) is not installed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        open_workers(1, cluster.scheduler_address) as workers,
    ):
        results = dict(completed(workers, _work, range(6)))
        again = dict(completed(workers, _work, [5]))
    assert [results[n] for n in (0, 1, 4, 5)] == [0, 1, 16, 25]
    assert isinstance(results[2], Failure)
    assert isinstance(results[2].error, SlideError)
    assert again == {5: 25}


@pytest.mark.parametrize(
    ("waiver", "needs_person", "decision", "passed", "pending"),
    [
        (False, False, None, None, True),
        (True, False, None, Passed("unreviewed", ""), False),
        (True, True, None, None, True),
        (False, False, Decision.ACCEPT, Passed("accept", "Dr. X"), False),
        (True, True, Decision.ACCEPT, Passed("accept", "Dr. X"), False),
        (True, False, Decision.REJECT, None, False),
        (True, False, Decision.SKIP, None, False),
        (False, True, Decision.REJECT, None, False),
    ],
)
def test_the_gate(
    waiver: bool, needs_person: bool, decision: Decision | None, passed: Passed | None, pending: bool
) -> None:
    place = Place("p", 1, 2)
    applied = {} if decision is None else {place: Verdict(place, A, decision, "Dr. X")}
    gate = Gate(Review(applied), waiver, needs_person)
    assert gate.passes(place) == passed
    assert gate.pending("p") is pending
    if decision is not None:  # another tile of the same pair, without a verdict
        assert (gate.passes(Place("p", 5, 5)) is not None) == (waiver and not needs_person)


def _end(failed: dict[str, VirtualStainError], pending: list[str], n: int) -> VirtualStainError | None:
    return error_of(failed, pending, n, Path("out"), Path("out/review-template.csv"))


def test_how_a_batch_ends() -> None:
    slide, rejected = SlideError("cut off", "Copy it again."), RejectedError("no match")
    assert _end({}, [], 3) is None
    assert _end({"a": slide}, [], 1) is slide
    both = _end({"a": slide, "b": rejected}, [], 2)
    assert isinstance(both, SlideError)
    assert "a: cut off" in both.message
    assert "b: no match" in both.message
    some = _end({"a": slide}, [], 2)
    assert isinstance(some, BatchError)
    assert some.hint == "Copy it again."
    waiting = _end({"a": slide}, ["b"], 3)
    assert isinstance(waiting, ReviewPendingError)
    assert "a: cut off" in waiting.message


def test_reasons_that_travel_hold_no_path() -> None:
    pair = StainPair("p", "Ann", Marker.KI67, SlideRef(Path("/x/Ann B/he.svs")), SlideRef(Path("/x/Ann B/ihc.svs")))
    text = public_reason("/x/Ann B/he.svs: cut off; see /out/y/work/p/overlay.jpg", pair, Path("/out/y"))
    assert text == "H&E slide: cut off; see DIR/work/p/overlay.jpg"


def test_a_public_reason_hides_a_broken_roi_and_bare_file_names(tmp_path: Path) -> None:
    """The path of an ROI, and names of files without their folder, stood in the manifest."""
    he_roi, ihc_roi = tmp_path / "Ann Bo.geojson", tmp_path / "Ann-ihc.json"
    he_roi.write_text("{broken")
    he, ihc = SlideRef(Path("/x/he.svs")), SlideRef(Path("/x/Ann_Bo.ome.tiff"))
    pair = StainPair("p", "Ann", Marker.KI67, he, ihc, he_roi=he_roi, ihc_roi=ihc_roi)
    with pytest.raises(InputError) as caught:
        read_region(he_roi, Box(0, 0, 10, 10))
    assert public_reason(caught.value.message, pair, Path("out")).startswith("H&E region: expected GeoJSON")
    text = public_reason("the file Ann_Bo.ome.tiff, Ann_Bo_label, Ann Bo and Ann-ihc.json", pair, Path("out"))
    assert text == "the file IHC slide, IHC slide_label, H&E region and IHC region"
    assert public_reason("the scan ends.", pair, Path()) == "the scan ends."


def _prepared(n: int, folder: Path = Path("work/p")) -> PreparedPair:
    ref = SlideRef(Path("a.svs"))
    job = PairJob(
        pair="p", marker=Marker.KI67, he=ref, ihc=ref, he_roi=None, ihc_roi=None, folder=folder, config=Config()
    )
    return PreparedPair(
        job=job,
        fingerprint="k",
        he_sha256="1",
        ihc_sha256="2",
        error_median_um=5.0,
        error_p95_um=10.0,
        verdict="accept",
        registration_flags=(),
        stain={"flags": []},
        tiles=tuple(TileRef(i, 0, Box(i * 10.0, 0, 10, 10), 0.5, False) for i in range(n)),
        n_tiles=n,
        n_glass=0,
        n_little_tissue=0,
    )


@pytest.mark.parametrize(("n", "largest"), [(0, 0), (1, 1), (15, 6), (200, 7), (5000, 64)])
def test_parts_hold_every_tile_once_and_at_most_64(n: int, largest: int) -> None:
    parts = cut(_prepared(n))
    assert [t for part in parts for t in part.tiles] == list(_prepared(n).tiles)
    assert max((len(part.tiles) for part in parts), default=0) == largest
    assert len({part.path for part in parts}) == len({part.fingerprint for part in parts}) == len(parts)
    assert all(part.prepared.tiles == () for part in parts)


def test_parts_hold_neighbours() -> None:
    """Parts of a row each shared a margin on two sides only."""
    tiles = tuple(TileRef(col, row, Box(col, row, 1, 1), 0.5, False) for row in range(8) for col in range(7))
    parts = cut(dataclasses.replace(_prepared(0), tiles=tiles))
    assert sorted((t.row, t.col) for part in parts for t in part.tiles) == [(t.row, t.col) for t in tiles]
    assert [(t.col, t.row) for t in parts[0].tiles] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_the_fingerprint_of_the_tiles_changes_with_inputs_and_windows() -> None:
    prepared = _prepared(5)
    moved = dataclasses.replace(prepared.tiles[0], tissue_fraction=0.51)
    fingerprints = {
        tiles_fingerprint(prepared),
        tiles_fingerprint(dataclasses.replace(prepared, fingerprint="other")),
        tiles_fingerprint(dataclasses.replace(prepared, tiles=(moved, *prepared.tiles[1:]))),
        tiles_fingerprint(_prepared(4)),
    }
    assert len(fingerprints) == 4


def test_a_folder_may_gain_pairs_and_keeps_its_settings(tmp_path: Path) -> None:
    claim(tmp_path, Config(), {"a": ("id-a", "ki67")}, force=False)
    claim(tmp_path, Config(), {"a": ("id-a", "ki67"), "b": ("id-b", "er")}, force=False)
    with pytest.raises(OutputError, match="pair b is no longer in the table"):
        claim(tmp_path, Config(), {"a": ("id-a", "ki67")}, force=False)
    with pytest.raises(OutputError, match="another patient key"):
        claim(tmp_path, Config(), {"a": ("id-x", "ki67"), "b": ("id-b", "er")}, force=False)
    (tmp_path / "work" / "build.json").write_text("[]")
    with pytest.raises(OutputError, match="expected the state of an earlier run"):
        claim(tmp_path, Config(), {"a": ("id-a", "ki67")}, force=False)


def test_folds_and_shard_size_may_change_without_doing_the_tiles_again(tmp_path: Path) -> None:
    pairs = {"a": ("id-a", "ki67")}
    claim(tmp_path, Config(), pairs, force=False)
    tiles = tmp_path / "work" / "a" / "tiles.h5"
    tiles.parent.mkdir()
    tiles.write_text("x")
    labels = dataclasses.replace(Config().labels, n_folds=3, shard_mb=10.0)
    claim(tmp_path, dataclasses.replace(Config(), labels=labels), pairs, force=False)
    assert tiles.read_text() == "x"


def test_force_clears_records_and_work_and_nothing_else(tmp_path: Path) -> None:
    for name in ("manifest.json", "a-00000-of-00001.tfrecord", "summary.html", "review-template.csv", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "work" / "a").mkdir(parents=True)
    (tmp_path / "work" / "a" / "tiles.h5").write_text("x")
    claim(tmp_path, Config(), {"b": ("id-b", "ki67")}, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "review-template.csv", "work"]
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["build.json"]


def test_the_same_slide_under_two_patients_is_refused(tmp_path: Path) -> None:
    from virtual_stain.patients import PatientKey
    from virtual_stain.progress import QUIET
    from virtual_stain.provenance import RunRecord
    from virtual_stain.workflows import build_stages as module
    from virtual_stain.workflows.build_run import BuildRun

    refs = [SlideRef(tmp_path / f"{n}.svs") for n in range(4)]
    pairs = tuple(StainPair(f"p{i}", f"patient {i}", Marker.KI67, refs[2 * i], refs[2 * i + 1]) for i in range(2))
    with open_workers(1) as workers:
        key, record = PatientKey(b"k" * 32), RunRecord("build-records")
        run = BuildRun(tmp_path, Config(), True, False, pairs, key, workers, QUIET, record)
        for i in range(2):
            run.prepared[f"p{i}"] = dataclasses.replace(_prepared(3), he_sha256="same", ihc_sha256=str(i))
        module._refuse_shared_slides(run)
    assert set(run.failed) == {"p0", "p1"}
    assert isinstance(run.failed["p0"].error, PairError)
    assert "patient 0" not in run.failed["p0"].error.message


def test_a_folder_of_an_earlier_version_is_taken_up_under_the_settings_new_names(tmp_path: Path) -> None:
    pairs = {"a": ("id-a", "ki67")}
    claim(tmp_path, Config(labels=LabelSettings(min_tile_cells=20)), pairs, force=False)
    state = tmp_path / WORK / "build.json"
    text = state.read_text()
    for new, old in (("min_tile_cells", "min_tumour_cells"), ("min_window_focus", "min_focus")):
        assert new in text
        text = text.replace(new, old)
    state.write_text(text)
    with pytest.raises(OutputError, match=r"labels\.min_tile_cells was 20 and is now 50"):
        claim(tmp_path, Config(), pairs, force=False)
    claim(tmp_path, Config(labels=LabelSettings(min_tile_cells=20)), pairs, force=False)
    assert state.read_text() != text
