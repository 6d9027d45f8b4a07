"""Works take turns, and what is said of their scatter is what it is."""

import numpy as np
import pytest
import torch

from mipp.latency import scatter, take_turns
from mipp.latency.timing import WARM_UP

CPU = torch.device("cpu")


def test_works_take_turns_after_a_warm_up():
    told = []
    works = [lambda: told.append("a"), lambda: told.append("b")]
    runs = take_turns(works, seconds=0, fewest=4, device=CPU)
    assert told == ["a"] * WARM_UP + ["b"] * WARM_UP + ["a", "b"] * 4
    assert [mine.shape for mine in runs] == [(4,), (4,)]


def test_no_gradients_are_recorded():
    weight, made = torch.ones(2, requires_grad=True), []
    take_turns([lambda: made.append(weight * 2)], seconds=0, fewest=1, device=CPU)
    assert not made[-1].requires_grad


def test_scatter_is_half_the_range_of_the_medians_of_parts():
    slow_at_the_end = np.repeat([1.0, 1.0, 1.0, 1.0, 3.0], 3)
    assert scatter(slow_at_the_end) == pytest.approx(1.0)
    one_outlier = np.ones(15)
    one_outlier[4] = 100
    assert scatter(one_outlier) == 0
    # what slows both alike does not change their ratio
    assert scatter(2 * slow_at_the_end, slow_at_the_end) == 0
    assert scatter(slow_at_the_end, np.ones(15)) == pytest.approx(1.0)
