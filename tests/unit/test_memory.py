"""What a command needed at most counts its workers, too."""

import os
import subprocess
import sys

from virtual_stain.memory import PeakMemory, release_memory, resident_bytes_of_tree

HOLD_100_MB = (
    "data = bytearray(100_000_000); data[::4096] = b'x' * len(data[::4096]); print('ready', flush=True); input()"
)


def test_a_worker_counts_while_it_lives():
    before = resident_bytes_of_tree(os.getpid())
    with (
        PeakMemory() as peak,
        subprocess.Popen([sys.executable, "-c", HOLD_100_MB], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker,
    ):
        assert worker.stdout.readline() == b"ready\n"
        during = resident_bytes_of_tree(os.getpid())
        worker.communicate(b"\n")
    assert during - before > 100_000_000
    assert peak.gb * 1e9 >= before
    assert resident_bytes_of_tree(worker.pid) == 0


def test_the_peak_stays_after_the_memory_has_gone_back():
    with PeakMemory() as peak:
        data = bytearray(200_000_000)
        data[::4096] = b"x" * len(data[::4096])
        held = resident_bytes_of_tree(os.getpid())
        del data
        release_memory()
    assert peak.gb * 1e9 >= 0.99 * held
