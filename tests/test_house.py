"""The house: one name for each module, and checks that hold in tests."""

from collections import Counter
from pathlib import Path

import jaxtyping
import pytest
import torch

import mipp
from mipp.moments import Moments

SOURCE = Path(mipp.__file__).parent


def test_no_two_modules_have_one_name():
    names = Counter(path.name for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_shapes_in_signatures_are_checked_in_every_test():
    moments = Moments(4, torch.device("cpu"))
    with pytest.raises(jaxtyping.TypeCheckError):
        moments.update(torch.zeros(3))
