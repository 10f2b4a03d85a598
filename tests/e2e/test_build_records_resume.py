"""build-records goes on: killed in the middle, after changed code, and what it does not do again."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fixtures.built import ACCEPT, Built, outputs
from tests.fixtures.source import CODE, COMMENT, Calls, code_changer
from virtual_stain.config import Config
from virtual_stain.errors import (
    OutputError,
    VirtualStainError,
)
from virtual_stain.files import folder_lock
from virtual_stain.records import write as records_write
from virtual_stain.records.manifest import read_manifest
from virtual_stain.workflows import pair_job, pair_registration, pair_stain, part_job
from virtual_stain.workflows.build_records import BuildOptions, build_records

pytestmark = pytest.mark.usefixtures("key_of_built")


def test_a_killed_run_taken_up_again_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    table, whole = built.one_pair(tmp_path)
    out = tmp_path / "records"
    command = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()", "build-records"]
    command += [str(table), "--out", str(out), "--accept-unreviewed", "--jobs", "2", "-q"]
    process = subprocess.Popen(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not list(out.glob("work/*/tiles.parts/*.h5")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("*.tfrecord"))
    # at once, while a worker of the killed run may still be at its last tile
    result = build_records(table, out, Config(), BuildOptions(accept_unreviewed=True, jobs=1))
    assert result.tiles_built < result.manifest.n_records  # the first run's parts were taken up
    assert outputs(out) == outputs(whole)
    assert not list(out.glob("work/*/tiles.parts"))


def test_finished_work_is_not_done_again_and_a_lost_or_edited_shard_is_mended(built: Built, copy: Path) -> None:
    wanted = outputs(built.out)
    shards = sorted(copy.glob("*.tfrecord"))
    shards[0].unlink()
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1
    shards[1].write_bytes(data)
    result = build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert result.tiles_built == 0
    assert outputs(copy) == wanted


def test_pairs_that_are_done_are_not_opened_again(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed over a pair leaves the records as they were."""
    table, out = built.one_pair(tmp_path)
    opened = Calls(monkeypatch, pair_job, "open_slide")
    build_records(table, out, Config(), ACCEPT)
    assert opened.since() == 0
    before = outputs(out)
    (pair,) = (p.pair for p in built.cohort[:1])
    (out / "work" / pair / "stain.json").write_text("{}")

    def killed(*_: object) -> None:
        raise ZeroDivisionError("as a worker that dies")

    monkeypatch.setattr(pair_job, "register_in_work", killed)
    with pytest.raises(VirtualStainError, match="are as they were"):
        build_records(table, out, Config(), ACCEPT)
    assert outputs(out) == before


_WITHOUT_TENSORFLOW = """
import sys
from pathlib import Path
sys.modules["tensorflow"] = None
from virtual_stain.config import Config
from virtual_stain.workflows.build_records import BuildOptions, build_records
result = build_records(Path(sys.argv[1]), Path(sys.argv[2]), Config(), BuildOptions(accept_unreviewed=True))
print(result.manifest.n_records)
"""


def test_a_run_over_finished_pairs_does_without_tensorflow(built: Built, copy: Path) -> None:
    """Its import alone took longer than everything else that such a run has to do."""
    command = [sys.executable, "-c", _WITHOUT_TENSORFLOW, str(built.pairs_csv), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == read_manifest(built.out).n_records
    assert outputs(copy) == outputs(built.out)


def test_changed_code_makes_its_stage_again_and_none_before(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list by hand had decided for all of a pair: a new rule for cells registered every pair again."""
    change = code_changer(tmp_path / "sources", monkeypatch)
    stages = (
        (pair_registration, "register_pair"),
        (pair_stain, "examine_slide_stain"),
        (part_job, "build_tile"),
        (records_write, "stage_shards"),
    )
    calls = [Calls(monkeypatch, module, name) for module, name in stages]
    table, out = built.one_pair(tmp_path)
    before = outputs(out)
    n_tiles = read_manifest(out).n_records

    def run() -> tuple[int, ...]:
        build_records(table, out, Config(), ACCEPT)
        return tuple(c.since() for c in calls)

    for file, text in (("geometry.py", COMMENT), ("web/app.py", CODE), ("training/fit.py", CODE)):
        change(file, text)
        assert run() == (0, 0, 0, 0)
    change("records/write.py", CODE)
    assert run() == (0, 0, 0, 1)
    change("labels/raster_map.py", CODE)  # tiles alone are made with it
    assert run() == (0, 0, n_tiles, 1)
    change("counting/sampling.py", CODE)
    assert run()[:2] == (0, 1)
    change("registration/search.py", CODE)
    assert run() == (1, 0, 0, 0)  # the same registration came out
    assert outputs(out) == before


def test_a_damaged_store_or_registration_is_made_again(built: Built, copy: Path) -> None:
    first = built.cohort[0].pair
    store = copy / "work" / first / "tiles.h5"
    store.write_bytes(store.read_bytes()[:-1000])
    result = build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert result.tiles_built == next(p.n_records for p in result.manifest.pairs if p.pair == first)
    assert outputs(copy) == outputs(built.out)


def test_shares_of_a_cluster_array_leave_only_review_and_packing(built: Built, copy: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "tile_pairs.py"
    spec = importlib.util.spec_from_file_location("tile_pairs", script)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for share in ("0/2", "1/2"):
        arguments = [str(built.pairs_csv), "--out", str(copy), "--share", share, "--jobs", "1", "-q"]
        done = CliRunner().invoke(tool.main, arguments)
        assert done.exit_code == 0, done.output
        assert done.output.startswith(built.cohort[int(share[0])].pair + ": accept, ")
    assert build_records(built.pairs_csv, copy, Config(), ACCEPT).tiles_built == 0


def test_two_runs_in_one_folder_are_refused(built: Built, copy: Path) -> None:
    with folder_lock(copy), pytest.raises(OutputError, match="another vstain run is writing here"):
        build_records(built.pairs_csv, copy, Config(), ACCEPT)
