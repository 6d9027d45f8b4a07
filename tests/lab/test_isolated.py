"""Work in a process of its own: its answer, its errors, and that it was killed."""

import os
import signal

import pytest

from lab import isolated
from mipp.errors import MippError


def total(numbers):
    return {"sum": sum(numbers)}


def broken(_):
    raise ValueError("no such net")


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_answer_comes_back():
    assert isolated.call("tests.lab.test_isolated:total", [[1, 2, 3]]) == {"sum": 6}


@pytest.mark.parametrize(("name", "said"), [("broken", "no such net"), ("killed", "was killed")])
def test_what_went_wrong_is_said(name, said):
    with pytest.raises(MippError, match=said):
        isolated.call(f"tests.lab.test_isolated:{name}", [0])
