import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import (
    folder_lock,
    is_full,
    make_folder,
    output_errors,
    read_json,
    replacing,
    sha256_file,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "größe é.json"
    write_text(path, "old")

    class StopError(Exception):
        pass

    with pytest.raises(StopError), replacing(path) as temporary:
        temporary.write_text("half")
        raise StopError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.ENOENT, "no such folder"),
    ],
)
def test_the_systems_refusals_become_sentences(tmp_path, number, word):
    with pytest.raises(OutputError, match=word), output_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))


def test_another_os_error_is_not_disguised(tmp_path):
    with pytest.raises(OSError, match="Interrupted"), output_errors(tmp_path):
        raise OSError(errno.EINTR, "Interrupted")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="permission"):
        write_text(tmp_path / "a", "b")


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(OutputError, match="file, not a folder"):
        write_text(tmp_path / "a" / "b", "c")


def test_nan_never_enters_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"r": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_reading_something_else_says_what_was_expected(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="expected a manifest"):
        read_json(tmp_path / "a.json", "a manifest")
    with pytest.raises(InputError, match="cannot be read"):
        sha256_file(tmp_path / "none")


def _hold(folder: Path, ready, seconds: float) -> None:
    with folder_lock(folder):
        ready.set()
        time.sleep(seconds)


def test_a_second_run_in_one_folder_is_refused_and_a_killed_one_does_not_block(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, 60))
    process.start()
    assert ready.wait(30)
    with pytest.raises(OutputError, match="another vstain run"), folder_lock(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    process.close()
    with folder_lock(tmp_path):
        assert (tmp_path / ".lock").exists()


_PARENT = """
import os, sys, time
from pathlib import Path
from virtual_stain.files import folder_lock

with folder_lock(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        time.sleep(120)
        os._exit(0)
    print(worker, flush=True)
    time.sleep(120)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_worker_of_a_dead_run_kept_its_lock(tmp_path):
    """A forked child has its parent's open files: the lock of a killed run lived on in its workers."""
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        worker = int(parent.stdout.readline())
        try:
            with pytest.raises(OutputError, match="another vstain run"), folder_lock(tmp_path):
                pass
            parent.kill()
            parent.wait(30)
            os.kill(worker, 0)  # it still lives
            _take_soon(tmp_path)
        finally:
            os.kill(worker, signal.SIGKILL)


def _take_soon(folder: Path, seconds: float = 30) -> None:
    """The lock can be had; a busy machine may not have let the worker give its own copy back yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            with folder_lock(folder):
                return
        except OutputError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def test_a_second_run_can_wait_for_the_first(tmp_path):
    order = []

    def first():
        with folder_lock(tmp_path):
            held.set()
            time.sleep(0.3)
            order.append("first")

    held, thread = threading.Event(), threading.Thread(target=first)
    thread.start()
    assert held.wait(30)
    with folder_lock(tmp_path, wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_share_without_locks_was_a_traceback(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OutputError, match="keeps file locks") as caught, folder_lock(tmp_path):
        pass
    assert str(tmp_path) in caught.value.message
    assert "--out" in caught.value.hint


def test_a_full_disk_met_under_the_lock_is_a_sentence(tmp_path):
    with pytest.raises(OutputError, match="the disk is full"), folder_lock(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))
    with folder_lock(tmp_path):  # and the lock is free again
        assert (tmp_path / ".lock").read_bytes() == b""


def test_a_folder_that_cannot_be_made_was_a_traceback():
    with pytest.raises(OutputError, match="/proc/x: cannot be written"):
        make_folder(Path("/proc/x"))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": %s}' % (b"9" * 5000),
        b'{"a": 99999999999999999999999}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"",
        b"\x00",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_json_that_broke_its_reader_or_means_two_things_is_refused(tmp_path, text):
    """RecursionError, OverflowError, over 4,300 digits: 29 tracebacks."""
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(InputError, match="expected a list of things"):
        read_json(tmp_path / "x.json", "a list of things")


def test_ordinary_json_is_read(tmp_path):
    value = {"a": [1, -2.5, 2**63, "größe \U0001f600", None, True], "b": {"a": 1e300}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", "x") == value


def test_a_refusal_elsewhere_was_blamed_on_the_output(tmp_path):
    with pytest.raises(PermissionError), output_errors(tmp_path / "out" / "x.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/slides/a.svs")


def test_a_link_in_place_of_the_temporary_file_led_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out.json.tmp").symlink_to(victim)
    write_text(tmp_path / "out.json", "theirs")
    assert victim.read_text() == "mine"
    assert (tmp_path / "out.json").read_text() == "theirs"
    assert not (tmp_path / "out.json").is_symlink()


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_full_disk_is_told_apart_from_other_refusals(number, full):
    error = OutputError("x")
    error.__cause__ = OSError(number, os.strerror(number))
    assert is_full(error) is full
    assert is_full(OutputError("x")) is False
