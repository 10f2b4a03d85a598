"""`--scheduler` on a cluster of processes of this machine: a worker is killed, a slide kills, a worker is another's."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.fixtures.built import Built, outputs
from tests.fixtures.counting import FieldStyle, stained_field
from virtual_stain.cli.main import _run
from virtual_stain.config import Config
from virtual_stain.errors import ConfigError, VirtualStainError
from virtual_stain.workflows import scheduling
from virtual_stain.workflows.build_records import BuildOptions, build_records
from virtual_stain.workflows.many import Finished, Task, run_many
from virtual_stain.workflows.scheduling import open_workers
from virtual_stain.workflows.slurm import slurm_arguments

distributed = pytest.importorskip("distributed", reason="dask.distributed (extra: cluster) is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask, over processes that are meant to die


def work(path: Path) -> Finished:
    with (path.parent / "begun.txt").open("a") as stream:
        stream.write(f"{path.stem} {os.getpid()}\n")
    if path.stem.startswith("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3 if path.stem.startswith("slow") else 0.01)
    return Finished({"pid": os.getpid()})


def begun(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "begun.txt").read_text().split()
    return list(zip(lines[::2], map(int, lines[1::2]), strict=True))


def tasks(folder: Path, *names: str) -> list[Task[Path]]:
    (folder / "out").mkdir()
    return [Task(name, folder / name, ()) for name in names]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as found:
        yield found


@pytest.mark.slow
def test_a_slide_that_kills_its_worker_is_begun_twice_and_costs_no_other(cluster: Any, tmp_path: Path) -> None:
    names = [*(f"a{n}" for n in range(5)), "kills", *(f"b{n}" for n in range(5))]
    with open_workers(1, cluster.scheduler_address) as workers:
        done = {d.name: d for d in run_many(tasks(tmp_path, *names), work, workers, tmp_path / "out")}
    assert {n for n, d in done.items() if not d.ok} == {"kills"}
    assert "worker was lost 2 times" in done["kills"].reason
    assert [name for name, _ in begun(tmp_path)].count("kills") == 2
    assert not (tmp_path / "out" / ".started").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_task_only(cluster: Any, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        while len(begun(tmp_path)) < 4 if (tmp_path / "begun.txt").exists() else True:
            time.sleep(0.02)
        killed.append(begun(tmp_path)[-1][1])
        os.kill(killed[0], signal.SIGKILL)

    names = [f"slow{n}" for n in range(12)]
    threading.Thread(target=kill_one, daemon=True).start()
    with open_workers(1, cluster.scheduler_address) as workers:
        done = {d.name: d for d in run_many(tasks(tmp_path, *names), work, workers, tmp_path / "out")}
    assert killed
    assert all(d.ok for d in done.values()), [d.reason for d in done.values() if not d.ok]
    again = {name for name, _ in begun(tmp_path) if [n for n, _ in begun(tmp_path)].count(name) > 1}
    assert len(again) <= 2  # the one that ran, and the one whose answer was on its way


@pytest.mark.slow
def test_count_over_a_cluster_gives_the_numbers_of_this_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.png"
    cv2.imwrite(str(path), stained_field(100.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb[:, :, ::-1])
    shutil.copy(path, tmp_path / "in" / "b.png")
    monkeypatch.chdir(tmp_path)  # workers stand in another folder
    command = ["count", "in", "--marker", "ki67", "--mpp", "0.5", "-q", "--jobs", "1"]
    assert _run([*command, "--out", "far", "--scheduler", cluster.scheduler_address]) == 0
    assert _run([*command, "--out", "here"]) == 0
    tables = [list(csv.DictReader((tmp_path / out / "counts.csv").open())) for out in ("far", "here")]
    assert tables[0] == tables[1]
    for name in ("a", "b"):
        assert (tmp_path / "far" / name / "cells.csv").read_bytes() == (
            tmp_path / "here" / name / "cells.csv"
        ).read_bytes()


@pytest.mark.slow
def test_build_records_over_a_cluster_gives_the_bytes_of_this_machine(
    cluster: Any, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(built.key))
    table, here = built.one_pair(tmp_path)
    monkeypatch.chdir(tmp_path)  # workers stand in another folder
    far = BuildOptions(accept_unreviewed=True, scheduler=cluster.scheduler_address)
    result = build_records(Path(table.name), Path("far"), Config(), far)
    assert result.tiles_built == result.manifest.n_records
    assert outputs(tmp_path / "far") == outputs(here)
    assert build_records(Path(table.name), Path("far"), Config(), far).tiles_built == 0


class _Client:
    """A cluster whose second worker is another's."""

    def __init__(self, *answers: object) -> None:
        self._answers = answers

    def run(self, *_: object, **__: object) -> dict[str, object]:
        return {f"tcp://w{i}": answer for i, answer in enumerate(self._answers)}


@pytest.mark.parametrize("other", [ModuleNotFoundError("No module named 'virtual_stain'"), "0.0.1"])
def test_a_worker_without_this_version_is_refused_by_name(other: object) -> None:
    with pytest.raises(ConfigError, match=r"tcp://w1") as caught:
        scheduling._require_equal_workers(_Client(scheduling.__version__, other), "tcp://s", None)
    assert "tcp://w0" not in str(caught.value)


def test_workers_with_a_gpu_are_asked_for_by_their_tag_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, resources={"GPU": 1}
    ) as found:
        with open_workers(1, found.scheduler_address, gpu=True) as workers:
            assert workers.executor._kwargs["resources"] == {"GPU": 1}
            assert workers.executor.submit(abs, -1).result() == 1
        with open_workers(1, found.scheduler_address) as workers:
            assert "resources" not in workers.executor._kwargs


def test_slurm_jobs_are_asked_for_as_the_address_says() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    arguments, jobs = slurm_arguments("slurm:partition=long,cores=8,memory=64GB,walltime=04:00:00,jobs=3,account=lab")
    assert jobs == 3
    with jobqueue.SLURMCluster(**arguments, scheduler_options={"dashboard_address": None}) as found:
        script = found.job_script()
    for line in ("-p long", "-A lab", "--cpus-per-task=8", "-t 04:00:00", "--nworkers 8", "--nthreads 1"):
        assert line in script
    arguments, _ = slurm_arguments("slurm:partition=gpu,cores=8,gpus=2")
    with jobqueue.SLURMCluster(**arguments, scheduler_options={"dashboard_address": None}) as found:
        script = found.job_script()
    for line in ("--gres=gpu:2", "--cpus-per-task=8", "--nworkers 2", "--resources GPU=1"):
        assert line in script


@pytest.mark.slow
def test_a_scheduler_that_goes_ends_the_run_with_a_sentence_and_what_is_done_is_kept(tmp_path: Path) -> None:
    def start(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "dask", *words], stderr=subprocess.DEVNULL)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = start("worker", address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60")
    try:
        with distributed.Client(address, timeout=120) as client:
            client.wait_for_workers(1, timeout=120)
        some = [Task(f"slow{n}", tmp_path / f"slow{n}", (), None) for n in range(60)]
        (tmp_path / "out").mkdir()
        done = []
        with pytest.raises(VirtualStainError, match="lost the work"), open_workers(1, address) as workers:
            for one in run_many(some, work, workers, tmp_path / "out"):
                done.append(one)
                scheduler.kill()
        assert done
        assert all(one.ok for one in done)
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
