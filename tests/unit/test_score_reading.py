"""Reading ahead: order, bound, failures, and never a hang."""

import contextlib
import threading
import time

import pytest

from virtual_stain.errors import SlideError
from virtual_stain.scoring.reading import ReadAhead


def reader_of(function):
    @contextlib.contextmanager
    def open_reader():
        yield function

    return open_reader


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(jobs):
    def read(item):
        time.sleep(0.001 * (item % 3))
        return item * 10

    with ReadAhead(reader_of(read), range(40), jobs=jobs, ahead=8, timeout_s=10) as reader:
        assert list(reader) == [(i, i * 10) for i in range(40)]


def test_readers_wait_while_the_consumer_is_slow():
    started = []
    with ReadAhead(reader_of(lambda i: started.append(i) or i), range(100), jobs=3, ahead=6, timeout_s=10) as reader:
        results = iter(reader)
        next(results)
        time.sleep(0.2)
        assert len(started) <= 1 + 6
    assert threading.active_count() < 50


def test_a_tile_that_cannot_be_read_is_handed_over_in_its_place():
    def read(item):
        if item == 2:
            raise SlideError("region broken")
        return item

    with ReadAhead(reader_of(read), range(5), jobs=2, ahead=4, timeout_s=10) as reader:
        results = dict(reader)
    assert isinstance(results.pop(2), SlideError)
    assert results == {0: 0, 1: 1, 3: 3, 4: 4}


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), MemoryError(), SystemExit(3)])
def test_a_reader_that_dies_ends_the_iteration_with_its_error(error):
    def read(item):
        if item == 3:
            raise error
        return item

    with (
        ReadAhead(reader_of(read), range(50), jobs=2, ahead=4, timeout_s=10) as reader,
        pytest.raises(type(error)),
    ):
        list(reader)


def test_a_slide_that_cannot_be_opened_again_fails_every_tile_without_a_hang():
    @contextlib.contextmanager
    def open_reader():
        raise SlideError("gone")
        yield

    with ReadAhead(open_reader, range(5), jobs=2, ahead=4, timeout_s=10) as reader:
        assert [str(r) for _, r in reader] == ["gone"] * 5


def test_a_stalled_drive_is_an_error_after_the_timeout():
    release = threading.Event()

    def read(item):
        if item == 1:
            release.wait(20)
        return item

    start = time.monotonic()
    with (
        pytest.raises(SlideError, match=r"within 0\.3 s"),
        ReadAhead(reader_of(read), range(5), jobs=2, ahead=4, timeout_s=0.3) as reader,
    ):
        list(reader)
    assert time.monotonic() - start < 5
    release.set()


def test_leaving_early_stops_the_readers():
    read = []
    with ReadAhead(reader_of(lambda i: read.append(i) or i), range(1000), jobs=2, ahead=4, timeout_s=10) as reader:
        next(iter(reader))
    before = len(read)
    time.sleep(0.05)
    assert len(read) == before < 20


def test_every_thread_opens_and_closes_its_own_reader():
    opened, closed = [], []

    @contextlib.contextmanager
    def open_reader():
        opened.append(threading.current_thread().name)
        try:
            yield lambda item: time.sleep(0.002)
        finally:
            closed.append(threading.current_thread().name)

    with ReadAhead(open_reader, range(30), jobs=3, ahead=6, timeout_s=10) as reader:
        list(reader)
    assert sorted(opened) == sorted(closed) == ["reader-0", "reader-1", "reader-2"]


def test_no_items_need_no_reader():
    with ReadAhead(reader_of(int), [], jobs=2, ahead=4, timeout_s=1) as reader:
        assert list(reader) == []
