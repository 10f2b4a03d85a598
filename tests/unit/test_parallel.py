import os
import signal

import pytest

from virtual_stain.errors import SlideError, VirtualStainError
from virtual_stain.parallel import local_executor, map_in_order


def _square(x: int) -> int:
    return x * x


def _die(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def _refuse(x: int) -> int:
    raise SlideError(f"{x}.svs: truncated.", hint="Copy it again.")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_items(jobs):
    with local_executor(jobs) as executor:
        assert list(map_in_order(executor, _square, range(10))) == [x * x for x in range(10)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_a_worker_arrives_with_its_hint(jobs):
    with pytest.raises(SlideError, match="Copy it again"), local_executor(jobs) as executor:
        list(map_in_order(executor, _refuse, range(4)))


def test_a_worker_that_is_killed_is_noticed_and_does_not_hang():
    with pytest.raises(VirtualStainError, match="worker process died"), local_executor(2) as executor:
        list(map_in_order(executor, _die, range(6)))
