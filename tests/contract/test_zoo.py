"""Every architecture of the zoo: what is pruned is right, what is not has the expected reason."""

import copy
import os
import random
import re
from zlib import crc32

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import mipp
from mipp import graph, statistics, surgery
from mipp.graph import CostModel
from mipp.planning import prunable_graph
from tests.graph.checks import counted

from .zoo import ZOO, table
from .zoo.entry import TIED
from .zoo.peer import FAILS, OTHERWISE, dependency_graph, ours, producing_layer, theirs
from .zoo.tracing import traced

ALWAYS = ("it is part of the model's output", "it makes a single channel", TIED)
"""Reasons that need no mention in an entry."""
NIGHTLY = bool(os.environ.get("MIPP_NIGHTLY"))
COMPILED = 5
"""One entry in so many is compiled where time counts, all of them in `make nightly`."""


@pytest.fixture(scope="module", params=ZOO)
def case(request):
    return traced(ZOO[request.param])


def without_units(traced, share, seed=0):
    """A random choice in which every group loses this share of its units, at least one each."""
    rng, model = random.Random(seed), CostModel(traced)
    for group in traced.groups:
        wanted = min(max(1, round(share * group.n_units)), group.n_units - 1)
        order = rng.sample(range(group.n_units), group.n_units)
        gone = 0
        for unit in order:
            if gone < wanted and not model.empties(group.index, unit):
                model.remove(group.index, unit)
                gone += 1
        assert gone == wanted, group
    return model.keep


def cut(model, traced, keep):
    kept = surgery.kept_indices(traced, keep)
    return surgery.slice_model(model, kept, traced.aliases, surgery.attribute_keeps(traced, kept))


def run(model, case):
    with torch.no_grad():
        return [
            t for t in pytree.tree_leaves(model(*case.args, **case.kwargs)) if type(t) is Tensor
        ]


def test_what_stays_has_the_expected_reason(case):
    expected = case.entry
    if expected.nothing:
        assert case.graph is None
        assert re.search(expected.nothing, case.error)
        return
    assert not case.error
    reasons = [item.reason for item in case.graph.refused]
    for pattern in expected.stays:
        assert any(re.search(pattern, reason) for reason in reasons), pattern
    for item in case.graph.refused:
        patterns = (*expected.stays, *ALWAYS)
        assert any(re.search(pattern, item.reason) for pattern in patterns), item


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_masked_is_sliced(case, share, tmp_path):
    if case.entry.nothing:
        pytest.skip("nothing in it can be pruned")
    model, before, text = case.model, copy.deepcopy(case.model.state_dict()), str(case.model)
    keep = without_units(case.graph, share)
    small, masked = cut(model, case.graph, keep), surgery.mask_model(model, case.graph, keep)
    same = surgery.same_outputs(masked, small, case.args, case.kwargs, tolerance=1e-9)
    assert same.ok, same.message
    made, wanted = run(small, case), run(masked, case)
    for one, other, whole in zip(made, wanted, run(model, case), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
        assert one.shape == whole.shape
    # never a silent no-op, and the cost that was told
    now = graph.cost(case.graph, keep)
    n_params = sum(tensor.numel() for tensor in small.parameters())
    assert now.params == n_params < sum(tensor.numel() for tensor in model.parameters())
    # the model is as it was
    assert str(model) == text
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in [*model.modules(), *small.modules()])
    if share == 0.3:
        as_counted = counted(small, *case.args, **case.kwargs)[0] == now.macs
        assert as_counted == (not case.entry.uncounted)
        trains(small, case)
    else:
        stored(small, case, tmp_path)


def trains(small, case):
    """Forward and backward in train mode."""
    small.train()
    outputs = pytree.tree_leaves(small(*case.args, **case.kwargs))
    sum(t.sum() for t in outputs if isinstance(t, Tensor)).backward()
    assert any(tensor.grad is not None for tensor in small.parameters())


def stored(small, case, folder):
    """Ordinary state, in mipp's files and in PyTorch's own."""
    state, made = small.state_dict(), run(small, case)
    assert state.keys() == case.model.state_dict().keys()
    assert {type(value) for value in state.values()} <= {Tensor}
    surgery.save(small, folder / "small.safetensors")
    back = surgery.load(case.entry.built(), folder / "small.safetensors")
    torch.save(state, folder / "small.pt")
    own = copy.deepcopy(small)
    own.load_state_dict(torch.load(folder / "small.pt", weights_only=True))
    for again in (back, own):
        assert all(map(torch.equal, run(again, case), made))


@pytest.mark.filterwarnings("ignore:The tensor attribute.*_flat_weights.* assigned during export")
def test_a_small_model_is_exported_and_compiled_to_the_same_numbers(case, monkeypatch):
    if case.entry.nothing:
        pytest.skip("nothing in it can be pruned")
    small = cut(case.model, case.graph, without_units(case.graph, 0.3))
    wanted = run(small, case)
    exported = torch.export.export(small, case.args, case.kwargs, strict=False).module()
    torch.testing.assert_close(run(exported, case), wanted)
    if NIGHTLY or crc32(case.entry.name.encode()) % COMPILED == 0:
        torch._dynamo.reset()  # or one entry's limit of recompilations falls on the next
        # checks of annotations are of these tests, and cannot be compiled
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        compiled = torch.compile(small, backend="aot_eager")
        torch.testing.assert_close(run(compiled, case), wanted)


def test_what_is_pruned_can_be_pruned_again(case):
    if case.entry.nothing:
        pytest.skip("nothing in it can be pruned")
    small = cut(case.model, case.graph, without_units(case.graph, 0.3))
    again = prunable_graph(small, statistics.read_batches([case.batch], None))
    wide = {group.name for group in case.graph.groups if group.n_units > 2}
    assert wide <= {group.name for group in again.groups}
    keep = without_units(again, 0.3, seed=1)
    smaller = cut(small, again, keep)
    masked = surgery.mask_model(small, again, keep)
    same = surgery.same_outputs(masked, smaller, case.args, case.kwargs, tolerance=1e-9)
    assert same.ok, same.message
    # indices still count in the first model
    for (name, dim), indices in mipp.original_indices(smaller).items():
        full = (
            case.model.get_parameter(name) if name in dict(case.model.named_parameters()) else None
        )
        if full is not None:
            assert max(indices) < full.shape[dim]
            assert len(indices) == dict(smaller.named_parameters())[name].shape[dim]


def test_the_page_says_what_was_found(case):
    """Mended by ``python -m tests.contract.zoo``."""
    assert table.row(case) in table.written("architectures")
    ops = table.written_ops()
    for op, says in case.ops.items():
        told, names = ops[op]
        assert told == says
        if case.entry.name not in names:
            assert len(names) == table.N_LISTED
            assert set(names) <= table.entries_before(case.entry)
    for op, (_, names) in ops.items():
        assert op in case.ops or case.entry.name not in names


def test_the_page_lists_the_zoo_and_nothing_else():
    rows = table.written("architectures")
    assert [line.split(" | ")[1] for line in rows] == list(ZOO)
    assert all(name in ZOO for _, names in table.written_ops().values() for name in names)


def test_torch_pruning_couples_the_same(case):
    """All that goes with a unit; where it differs is listed, and is where it breaks the model."""
    library = pytest.importorskip("torch_pruning")
    if case.entry.nothing:
        pytest.skip("nothing in it can be pruned")
    name, model = case.entry.name, copy.deepcopy(case.model)
    if name in FAILS:
        with pytest.raises((TypeError, IndexError)):
            dependency_graph(library, model, case.args, case.kwargs)
        return
    peer = dependency_graph(library, model, case.args, case.kwargs)
    otherwise, compared = set(), 0
    for group in case.graph.groups:
        layer = producing_layer(model, case.graph, group.index)
        if layer is None:
            continue
        compared += 1
        for unit in (0, group.n_units - 1):
            mine = ours(model, case.graph, group.index, unit)
            if theirs(peer, model, layer, sorted(mine[layer, "out"])) != mine:
                otherwise.add(group.name)
    assert otherwise == {group for entry, group in OTHERWISE if entry == name}
    if not compared:
        pytest.skip("recurrent layers and bare parameters: Torch-Pruning has no start there")


MEASURED = (
    "VGG", "DenseNet", "U-Net", "EfficientNet", "DCGAN generator", "ViT, fused projection",
    "Llama, grouped queries", "GRU, stacked and bidirectional",
    "graph convolution, adjacency as input", "factorized, a dict in and out",
    "BERT, named inputs and outputs", "FiLM, two inputs",
)  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_what_mipp_chooses_is_sliced_as_it_is_masked(name):
    entry = ZOO[name]
    model, (args, kwargs) = entry.built(), entry.arguments()
    before = copy.deepcopy(model.state_dict())
    batches = [kwargs or (args, None)]
    for seed in (2, 3, 4):
        args, kwargs = entry.arguments(seed)
        batches.append(kwargs or (args, None))
    plan = mipp.plan(model, batches, "units=50%", noise=0.1)
    assert plan.after.units <= plan.before.units / 2
    small = plan.apply(refit=False)
    same = surgery.same_outputs(plan.mask(), small, args, kwargs, tolerance=1e-9)
    assert same.ok, same.message
    refitted = plan.apply()
    assert all(t.isfinite().all() for t in pytree.tree_leaves(run_with(refitted, args, kwargs)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def run_with(model, args, kwargs):
    with torch.no_grad():
        return model(*args, **kwargs)
