"""Networks out of all ops: masked = sliced, costs as counted, nothing broken or changed."""

import os
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from mipp import statistics, surgery
from mipp.errors import GraphError
from mipp.graph import cost, trace
from mipp.planning import prunable_graph
from tests.graph.checks import counted
from tests.graph.random_networks import random_network
from tests.graph.slicing import random_keep

NIGHTLY = bool(os.environ.get("MIPP_NIGHTLY"))


def some_of(units):
    """Where a dimension holds other units besides, a whole group may have gone."""
    units = units.copy()
    units[0] |= not units.any()
    return units


def check(seed, n_steps, wild):
    """Whether anything could be pruned."""
    rng = random.Random(seed)
    model, batch = random_network(rng, n_steps, wild=wild)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        if wild:
            graph = prunable_graph(model, statistics.read_batches([batch], None))
        else:
            graph = trace(model, (batch,))
    except GraphError as error:
        if "othing in" not in str(error):
            raise
        return False
    for share in (0.7, 0.3):
        keep = {group: some_of(units) for group, units in random_keep(graph, rng, share).items()}
        kept = surgery.kept_indices(graph, keep)
        sizes = surgery.attribute_keeps(graph, kept)
        small = surgery.slice_model(model, kept, graph.aliases, sizes)
        masked = surgery.mask_model(model, graph, keep)
        same = surgery.same_outputs(masked, small, (batch,), tolerance=1e-8)
        assert same.ok, same.message
        now = cost(graph, keep)
        assert now.params == sum(tensor.numel() for tensor in small.parameters())
        if not wild:
            assert counted(small, batch)[0] == pytest.approx(now.macs)
    if not wild:
        assert surgery.probe(model, graph, (batch,)) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return True


SEEDS, STEPS = st.integers(0, 2**32), st.integers(0, 8)


@pytest.mark.slow
@settings(max_examples=4000 if NIGHTLY else 60, deadline=None, derandomize=not NIGHTLY)
@given(SEEDS, STEPS)
@example(100, 2)  # a group that shares all its dimensions loses every unit
def test_what_rules_follow_is_sliced_as_masked_at_the_cost_that_was_told(seed, n_steps):
    check(seed, n_steps, wild=False)


@pytest.mark.slow
@settings(max_examples=2000 if NIGHTLY else 40, deadline=None, derandomize=not NIGHTLY)
@given(SEEDS, STEPS)
def test_what_code_spells_in_numbers_is_refused_or_right(seed, n_steps):
    check(seed, n_steps, wild=True)


@pytest.mark.parametrize("wild", [False, True])
def test_the_first_steps_of_a_seed_are_the_same_whatever_comes_after(wild):
    """Or a failure could not be cut down."""
    for seed in range(3):
        short, long = (random_network(random.Random(seed), n, wild=wild)[0] for n in (3, 6))
        assert short.steps == long.steps[: len(short.steps)]
        for name, layer in short.layers.items():
            assert str(layer) == str(long.layers[name])


def test_networks_have_every_kind_of_step():
    kinds = set()
    for seed in range(150):
        model, batch = random_network(random.Random(seed), 8, wild=True)
        assert all(t.isfinite().all() for t in pytree.tree_leaves(model(batch)))
        kinds |= {name.rstrip("0123456789") for name in model.layers}
    assert kinds >= {
        "act", "add", "attention", "bare", "bn", "cat", "conv", "depthwise", "features", "gated",
        "grouped", "idle", "kernel", "last", "linear", "map", "moved", "mul", "norm", "pad",
        "places", "pooled", "project", "reshaped", "resize", "rnn", "shuffle", "spelled", "squeeze",
        "token", "tokens", "transposed", "twice", "up", "vector",
    }  # fmt: skip
