import inspect
import pickle

import pytest

from virtual_stain import errors
from virtual_stain.errors import ConfigError, SlideError, VirtualStainError

TREE = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, VirtualStainError)]


@pytest.mark.parametrize("error", TREE)
def test_every_error_stands_in_the_tree_that_the_docstring_draws(error):
    assert error.__name__ in errors.__doc__


def test_exit_codes_are_those_of_the_contract():
    codes = {e.__name__: e.exit_code for e in TREE}
    assert codes["ConfigError"] == 2
    assert codes["ReviewPendingError"] == 4
    assert codes["ModelError"] == 5
    assert codes["BatchError"] == 6
    assert {c for n, c in codes.items() if issubclass(getattr(errors, n), errors.InputError)} == {3}


def test_an_error_keeps_its_hint_on_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(SlideError("a.svs: truncated.", hint="Copy it again.")))
    assert isinstance(error, SlideError)
    assert str(error) == "a.svs: truncated.\n  → Copy it again."
    assert error.exit_code == 3


def test_without_a_hint_the_message_stands_alone():
    assert str(ConfigError("no")) == "no"
