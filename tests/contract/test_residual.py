"""The residual stream as units: norms see fewer of them, in masks too, and plans report it."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp import statistics, surgery
from mipp.graph import cost
from mipp.planning import prunable_graph
from tests.graph.slicing import random_keep

from .zoo import ZOO
from .zoo.attention import WIDTH
from .zoo.entry import N_TOKENS

STREAMS = {
    "Llama, grouped queries": "embed",
    "GPT, tied embeddings": "wte",
    "ViT, separate projections": "patch",
    "ViT, fused projection": "patch",
    "SwiGLU, fused": "embed",
    "attention written out": "embed",
}
"""Architectures of the zoo, and the group of their residual stream."""


def case(name):
    entry = ZOO[name]
    return entry.built(), *entry.arguments()


def usable(model, args, kwargs=None):
    return prunable_graph(
        model, statistics.read_batches([kwargs or (args, None)], None), residual=True
    )


@pytest.mark.parametrize("name", STREAMS)
def test_the_stream_is_a_group_and_masked_is_sliced(name, tmp_path):
    model, args, kwargs = case(name)
    graph = usable(model, args, kwargs)
    stream = next(group for group in graph.groups if group.name == STREAMS[name])
    assert stream.n_units == WIDTH
    assert graph.inexact == {stream.index}
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(2), share)
        assert not keep[stream.index].all()
        small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
        masked = surgery.mask_model(model, graph, keep)
        same = surgery.same_outputs(masked, small, args, kwargs, tolerance=1e-9)
        assert same.ok, same.message
        # what would be exact is something else: norms that still see everything
        whole = surgery.mask_model(model, graph, keep, norms="all")
        assert not surgery.same_outputs(whole, small, args, kwargs, tolerance=1e-3).ok
        assert cost(graph, keep).params == sum(tensor.numel() for tensor in small.parameters())
        surgery.save(small, tmp_path / "small.safetensors")
        back = surgery.load(ZOO[name].built(), tmp_path / "small.safetensors")
        assert torch.equal(back(*args, **kwargs), small(*args, **kwargs))
        small.train()(*args, **kwargs).sum().backward()


class Written(nn.Module):
    """An RMS norm as Hugging Face writes it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Stream(nn.Module):
    """A stream, one MLP in it, a norm, and an output layer that may share the table."""

    def __init__(self, norm, *, tied=False):
        super().__init__()
        self.embed, self.up, self.down = (
            nn.Embedding(N_TOKENS, WIDTH), nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)
        )  # fmt: skip
        self.norm, self.out = norm(), nn.Linear(WIDTH, N_TOKENS, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.out(self.norm(x + self.down(F.gelu(self.up(x)))))


TOKENS = torch.randint(0, N_TOKENS, (4, 6), generator=torch.Generator().manual_seed(0))
NORMS = {"layer": lambda: nn.LayerNorm(WIDTH), "rms": lambda: nn.RMSNorm(WIDTH), "written": Written}


def stream(norm, **options):
    torch.manual_seed(0)
    return Stream(NORMS[norm], **options).double().eval()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tied", [False, True])
def test_norms_are_those_of_the_features_that_stay(norm, tied):
    model = stream(norm, tied=tied)
    graph = usable(model, (TOKENS,))
    index = next(iter(graph.inexact))
    kept = np.array([0, 2, 3, 7, 8])
    keep = {index: np.isin(np.arange(WIDTH), kept)}
    small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
    x = model.embed(TOKENS)[..., kept]
    up, down = model.up, model.down
    y = F.gelu(x @ up.weight[:, kept].T + up.bias)
    x = x + y @ down.weight[kept].T + down.bias[kept]
    x = x - x.mean(-1, keepdim=True) if norm == "layer" else x
    eps = {"layer": 1e-5, "rms": torch.finfo(x.dtype).eps, "written": 1e-6}[norm]
    x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * model.norm.weight[kept]
    x = x + (model.norm.bias[kept] if norm == "layer" else 0)
    wanted = x @ model.out.weight[:, kept].T
    torch.testing.assert_close(small(TOKENS), wanted)
    torch.testing.assert_close(surgery.mask_model(model, graph, keep)(TOKENS), wanted)


@pytest.mark.parametrize("tied", [False, True])
def test_the_difference_is_measured_and_told(tied):
    model = stream("rms", tied=tied)
    plan = mipp.plan(
        model, [TOKENS], noise=0.1, residual=True, refit=False, widths={"embed": 8}
    )  # fmt: skip
    assert list(plan.record.inexact) == ["embed"]
    # by hand: the norm sees all of the stream, the reader what is kept
    kept = list(plan.keep["embed"])
    x = model.embed(TOKENS)[..., kept]
    hidden = F.gelu(x @ model.up.weight[:, kept].T + model.up.bias)
    whole = model.norm(model.embed(TOKENS) + model.down(hidden))
    wanted = whole[..., kept] @ model.out.weight[:, kept].T
    found = plan.apply(refit=False)(TOKENS)
    difference = ((found - wanted).norm() / wanted.norm()).item()
    assert difference > 0.01
    assert plan.record.inexact["embed"] == pytest.approx(difference, rel=1e-6)
    assert f"not exact: embed is read through norms, which see fewer units; outputs move by " \
           f"{difference:.2%}" in str(plan)  # fmt: skip
    again = mipp.Plan.from_json(plan.to_json(), model, [TOKENS])
    assert again.record == plan.record
    torch.testing.assert_close(again.mask()(TOKENS), found)
    assert plan.mask()._modules.keys() == model._modules.keys()
    assert not plan.apply(refit=False).norm._forward_hooks


def test_without_being_asked_for_the_stream_stays():
    model = stream("layer")
    graph = prunable_graph(model, statistics.read_batches([TOKENS], None))
    assert not graph.inexact
    assert any("tied into one unit by layer_norm" in item.reason for item in graph.refused)


def test_a_norm_without_weights_keeps_its_width():
    model = Stream(lambda: nn.LayerNorm(WIDTH, elementwise_affine=False)).double().eval()
    graph = usable(model, (TOKENS,))
    assert not graph.inexact
    assert any("tied into one unit by layer_norm" in item.reason for item in graph.refused)


def test_a_plan_from_the_budget_prunes_the_stream_and_can_be_refitted():
    model, args, kwargs = case("Llama, grouped queries")
    plan = mipp.plan(model, [args], "params=60%", residual=True, noise=0.1)
    assert len(plan.keep["embed"]) < WIDTH
    small = plan.apply()
    assert sum(t.numel() for t in small.parameters()) == plan.after.params
    torch.testing.assert_close(plan.apply(refit=False)(*args), plan.mask()(*args))
    assert small(*args, **kwargs).isfinite().all()
    both = mipp.plan(model, [args], "params=60%", residual=True, method="l2")
    assert list(both.record.inexact) == ["embed"]
