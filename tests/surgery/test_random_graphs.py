"""Whatever the network and the choice of units: masked = sliced, and the input is left alone."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mipp.errors import GraphError
from mipp.graph import cost, trace
from mipp.surgery import files
from mipp.surgery.apply import mask_model, named_tensors, slice_model
from mipp.surgery.check import probe, same_outputs
from mipp.surgery.record import kept_indices
from tests.graph.random_models import random_model
from tests.graph.slicing import random_keep

NIGHTLY = bool(os.environ.get("MIPP_NIGHTLY"))


def counted(model, batch):
    """Multiply-accumulates for one example, and parameters, by PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    params = sum(tensor.numel() for tensor in model.parameters())
    return counter.get_total_flops() / 2 / len(batch), params


def traced(seed):
    rng = random.Random(seed)
    model, batch = random_model(rng)
    try:
        return rng, model, batch, trace(model, (batch[:1],))
    except GraphError as error:
        if "nothing in this model can be pruned" not in str(error):
            raise
        return None


def check(seed):
    found = traced(seed)
    if found is None:
        return
    rng, model, batch, graph = found
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    text = str(model)
    for share in (1.0, 0.7, 0.3):
        keep = random_keep(graph, rng, share)
        small = slice_model(model, kept_indices(graph, keep), graph.aliases)
        masked = mask_model(model, graph, keep)
        with torch.no_grad():
            torch.testing.assert_close(small(batch), masked(batch), rtol=1e-9, atol=1e-9)
        assert same_outputs(masked, small, (batch,), tolerance=1e-9).ok
        now = cost(graph, keep)
        assert (now.macs, now.params) == counted(small, batch)
    assert probe(model, graph, (batch,)) == []
    assert str(model) == text
    assert all(torch.equal(before[name], t) for name, t in named_tensors(model).items())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_masked_is_sliced(seed):
    check(seed)


@pytest.mark.slow
@settings(max_examples=3000 if NIGHTLY else 40, deadline=None)
@given(st.integers(0, 2**32))
def test_masked_is_sliced_often(seed):
    check(seed)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_nested_choices_slice_in_steps_as_at_once(tmp_path_factory, seed):
    found = traced(seed)
    if found is None:
        return
    rng, model, batch, graph = found
    some = random_keep(graph, rng, 0.5)
    more = {index: units | (np.arange(len(units)) % 2 == 0) for index, units in some.items()}
    kept_more, kept_some = kept_indices(graph, more), kept_indices(graph, some)
    first = slice_model(model, kept_more, graph.aliases)
    # indices of what stays, in the model that was sliced once
    again = {
        key: np.flatnonzero(np.isin(kept_more.get(key, np.arange(graph.axes[key].size)), indices))
        for key, indices in kept_some.items()
    }
    twice = slice_model(first, again, graph.aliases)
    once = slice_model(model, kept_some, graph.aliases)
    assert torch.equal(twice(batch), once(batch))
    folder = tmp_path_factory.mktemp("files")
    files.save(once, folder / "once.safetensors")
    files.save(twice, folder / "twice.safetensors")
    assert torch.equal(files.load(model, folder / "twice.safetensors")(batch), once(batch))
