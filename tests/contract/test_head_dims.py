"""Features inside heads as units: masked = sliced in every form of attention, or a reason."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp import statistics, surgery
from mipp.errors import GraphError, InputError
from mipp.graph import cost
from mipp.planning import prunable_graph
from tests.graph.checks import counted
from tests.graph.slicing import random_keep

from .attention_zoo import HEADS, SIZE, WIDTH, ZOO, Block, Separate

TOKENS = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(0))

REFUSED = {
    "rotary": "its length along the channels is a constant",
    "torch memory": "no layer is found that makes what this product sums over",
    "torch cross": "no layer is found that makes what this product sums over",
}
"""Forms whose features inside heads stay, and why."""


def built(make):
    torch.manual_seed(0)
    return Block(make()).double().eval()


def usable(model, *args):
    return prunable_graph(model, statistics.read_batches([*args] or [TOKENS], None), head_dims=True)


def heads_of(graph):
    """Groups whose units are features of all heads."""
    return [g for g in graph.groups if any(k.tensor.endswith("weight") for k in g.producers)
            and g.n_units == SIZE]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ZOO if name not in REFUSED])
def test_features_of_heads_are_units_and_masked_is_sliced(name, tmp_path):
    model = built(ZOO[name])
    graph = usable(model)
    groups = heads_of(graph)
    assert groups
    for group in groups:
        reads = graph.axes[graph.consumers[group.consumers[0]].in_axis]
        assert np.array_equal(reads.unit, np.tile(np.arange(SIZE), HEADS))
    for seed, share in ((1, 0.7), (3, 0.3)):
        keep = random_keep(graph, random.Random(seed), share)
        if all(keep[g.index].all() for g in groups if g.index in keep):
            keep = {**keep, groups[0].index: np.array([True, False, True])}
        masked = surgery.mask_model(model, graph, keep)
        small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
        same = surgery.same_outputs(masked, small, (TOKENS,), tolerance=1e-9)
        assert same.ok, same.message
        assert not surgery.same_outputs(model, small, (TOKENS,), tolerance=1e-4).ok
        now = cost(graph, keep)
        assert now.params == sum(tensor.numel() for tensor in small.parameters())
        # of a single feature einsum makes no matrix product, and Conv1D's view fits no layout
        several = all(keep[g.index].sum() > 1 for g in groups if g.index in keep)
        if name != "fused Conv1D" and (several or name != "einsum"):
            assert counted(small, TOKENS)[0] == pytest.approx(now.macs)
        surgery.save(small, tmp_path / "small.safetensors")
        back = surgery.load(built(ZOO[name]), tmp_path / "small.safetensors")
        assert torch.equal(back(TOKENS), small(TOKENS))
        small.train()(TOKENS).sum().backward()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_stays_with_a_reason(name):
    try:
        says = [item.reason for item in usable(built(ZOO[name])).refused]
    except GraphError as error:
        says = [str(error)]
    assert any(REFUSED[name] in reason for reason in says)


class Scaled(Separate):
    """Scores scaled in one of the ways that people write."""

    def __init__(self, how):
        super().__init__()
        self.how, self.scale = how, SIZE**-0.5

    def forward(self, x):
        q, k, v = self.split(x)
        if "kernel" in self.how:
            scale = self.scale if "before" in self.how else self.head_dim**-0.5
            return self.o(self.join(F.scaled_dot_product_attention(q, k, v, scale=scale)))
        if self.how == "queries":
            return self.o(self.join((q * self.scale @ k.mT).softmax(-1) @ v))
        size = {"size": q.shape[-1], "attribute": self.head_dim, "before": SIZE, "none": 1}[
            self.how
        ]
        return self.o(self.join(F.softmax(q @ k.mT / math.sqrt(size), -1) @ v))


POWERS = {
    "kernel": 0.5, "kernel, before": 0, "queries": 0, "size": 0.5, "attribute": 0.5, "before": 0,
    "none": 0,
}  # fmt: skip


@pytest.mark.parametrize("how", POWERS)
def test_the_scale_of_scores_stays_however_it_is_written(how):
    model = built(lambda: Scaled(how))
    with torch.no_grad():  # scores so small that nothing shows in the outputs
        for part in (model.attention.q, model.attention.k):
            part.weight.mul_(1e-4)
            part.bias.mul_(1e-4)
    graph = usable(model)
    assert [product.power for product in graph.products] == [POWERS[how]]
    with torch.no_grad():
        for part in (model.attention.q, model.attention.k):
            part.weight.mul_(4e4)
    keep = {0: np.array([True, False, False])}
    small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
    same = surgery.same_outputs(
        surgery.mask_model(model, graph, keep), small, (TOKENS,), tolerance=1e-9
    )
    assert same.ok, same.message


def test_of_many_layers_each_keeps_its_own_scale():
    torch.manual_seed(0)
    hows = ["size", "before", "kernel", "none"]
    model = Block(nn.Sequential(*(Scaled(how) for how in hows))).double().eval()
    graph = usable(model)
    assert [product.power for product in graph.products] == [POWERS[how] for how in hows]


@pytest.mark.parametrize("name", ["separate", "by hand", "fused split", "torch"])
def test_plans_and_files_carry_features_of_heads(name, tmp_path):
    model = built(ZOO[name])
    plan = mipp.plan(model, [TOKENS], "units=70%", head_dims=True, noise=0.1)
    small, text = plan.apply(refit=False), plan.to_json()
    assert '"scales"' in text
    read = mipp.Plan.from_json(text, model, [TOKENS])
    assert torch.equal(read.apply(refit=False)(TOKENS), small(TOKENS))
    torch.testing.assert_close(small(TOKENS), read.mask()(TOKENS))
    assert plan.apply()(TOKENS).isfinite().all()
    # what is left can lose heads as well
    again = mipp.plan(small, [TOKENS], "units=50%", noise=0.1).apply(refit=False)
    mipp.save(again, tmp_path / "again.safetensors")
    back = mipp.load(built(ZOO[name]), tmp_path / "again.safetensors")
    assert torch.equal(back(TOKENS), again(TOKENS))


class Fed(nn.Module):
    """Attention that reads a layer which can be pruned itself."""

    def __init__(self):
        super().__init__()
        self.embed, self.first = nn.Embedding(9, 6), nn.Linear(6, WIDTH)
        self.attention, self.out = Separate(), nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        return self.out(self.attention(self.first(self.embed(tokens)).relu()).mean(1))


def test_a_refit_keeps_the_scale():
    torch.manual_seed(0)
    model = Fed().double().eval()
    with torch.no_grad():
        model.first.weight[3], model.first.bias[3] = model.first.weight[5], model.first.bias[5]
    plan = mipp.plan(
        model, [TOKENS], head_dims=True, noise=0.1, refit=mipp.Refit(ridge=1e-9),
        widths={"first": WIDTH - 1, "attention.q": 2},
    )  # fmt: skip
    small = plan.apply()
    kept = next(axis.kept for axis in plan.record.axes if axis.tensor == "attention.q.weight")
    hidden = model.first(model.embed(TOKENS)).relu()
    found = small.attention.q(small.first(small.embed(TOKENS)).relu())
    wanted = model.attention.q(hidden)[..., list(kept)] * (2 / 3) ** 0.5
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_head_dims_is_yes_or_no():
    with pytest.raises(InputError, match="head_dims='v'; expected True or False"):
        mipp.plan(built(ZOO["separate"]), [TOKENS], "units=50%", head_dims="v")
