"""Methods that look at moments measure within memory, and find the same."""

import weakref

import numpy as np
import pytest
import torch

from mipp.methods import FLAP, OBS
from mipp.moments import Moments
from mipp.statistics import capture

from .nets import plain, question


def scored(method, memory):
    """The scores, and how often each example went through the model."""
    torch.manual_seed(0)
    asked, seen = question(plain().double(), memory=memory), []
    asked.model[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return method.score(asked), sum(seen) / sum(map(len, asked.batches))


@pytest.mark.parametrize("layered", [True, False])
def test_little_memory_changes_the_passes_alone(layered, monkeypatch):
    method = OBS(examples=None, batch_size=20)
    whole, passes = scored(method, 10**9)
    assert passes == 1
    monkeypatch.setattr("mipp.methods.shared.input_moments.one_layer_at_a_time", lambda *_: layered)
    split, passes = scored(method, 3_000)
    assert 1 < passes <= (len(whole) if layered else 2)
    assert whole.keys() == split.keys()
    for group, values in whole.items():
        np.testing.assert_allclose(split[group], values, rtol=1e-9)


def test_measurements_of_one_pass_are_gone_before_the_next(monkeypatch):
    alive, most = weakref.WeakSet(), []

    def captured(*args, **options):
        most.append(len(alive))
        found, how = capture(*args, **options)
        alive.update(found.values())
        return found, how

    monkeypatch.setattr("mipp.methods.shared.input_moments.one_layer_at_a_time", lambda *_: False)
    monkeypatch.setattr("mipp.methods.shared.input_moments.capture", captured)
    scored(OBS(examples=None), 3_000)
    assert most == [0, 0]


def test_variances_take_one_pass_and_no_matrix(monkeypatch):
    sizes = []

    def moments(d, *args, **options):
        sizes.append(d)
        return Moments(d, *args, **options)

    monkeypatch.setattr("mipp.statistics.recorder.Moments", moments)
    _, passes = scored(FLAP(examples=None, batch_size=20), 1)
    assert passes == 1
    assert set(sizes) == {1}


@pytest.mark.parametrize(("examples", "given", "expected"), [(None, None, 24), (14, 7, 7)])
def test_examples_come_in_batches_like_the_callers(examples, given, expected):
    asked = question(plain().double())  # batches of 20 and 28
    sizes = [len(batch) for batch in FLAP(examples=examples, batch_size=given).drawn(asked)]
    assert sum(sizes) == (examples or 48)
    assert max(sizes) == expected
