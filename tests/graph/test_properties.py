"""Whatever the network and the choice of units: sliced = masked, and the cost is as counted."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mipp.errors import GraphError
from mipp.graph import cost, trace

from .random_models import random_model
from .slicing import masked, random_keep, sliced

NIGHTLY = bool(os.environ.get("MIPP_NIGHTLY"))


def counted(model, batch):
    """MACs for one example and parameters, by PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    params = sum(tensor.numel() for tensor in model.parameters())
    return counter.get_total_flops() / 2 / len(batch), params


def check(seed):
    rng = random.Random(seed)
    model, batch = random_model(rng)
    try:
        graph = trace(model, (batch[:1],))
    except GraphError as error:
        if "tied into one unit" in str(error):
            return  # norm groups and shuffles have left nothing apart
        raise
    for share in (1.0, 0.7, 0.3):
        keep = random_keep(graph, rng, share)
        small = sliced(model, graph, keep)
        with torch.no_grad():
            np.testing.assert_allclose(
                small(batch), masked(model, graph, keep)(batch), rtol=1e-9, atol=1e-9
            )
        now = cost(graph, keep)
        assert (now.macs, now.params) == counted(small, batch)
        assert now.units == sum(int(units.sum()) for units in keep.values())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
@example(11028)  # two shuffles in a row
@example(11125)  # nothing to prune
def test_sliced_model_computes_the_same_at_the_cost_that_was_told(seed):
    check(seed)


@pytest.mark.slow
@settings(max_examples=1000 if NIGHTLY else 15, deadline=None)
@given(st.integers(0, 2**32))
def test_many_sliced_models_compute_the_same_at_the_cost_that_was_told(seed):
    check(seed)
