"""Sizes in configs, dicts and tuples follow; registered forwards stand in where none could."""

import copy
import io
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp import surgery
from mipp.graph import counts_units, pruned_forward
from mipp.tracing import forwards, size_attributes
from mipp.tracing.size_attributes import integers, put
from tests.surgery.pruning import pruned, reasons, seeded

WIDTH, HEADS = 12, 4
X = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(0)).double()


@dataclass(frozen=True)
class Config:
    n_head: int = HEADS
    width: int = WIDTH
    bias: bool = True


class Shape(NamedTuple):
    heads: int
    size: int


class Net(nn.Module):
    """Attention in a residual stream with a norm, and a layer behind it."""

    def __init__(self, *blocks):
        super().__init__()
        self.norm, self.blocks = nn.LayerNorm(WIDTH), nn.ModuleList(blocks)
        self.hidden, self.out = nn.Linear(WIDTH, 7), nn.Linear(7, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(self.norm(x))
        return self.out(F.relu(self.hidden(x.mean(1))))


class Attention(nn.Module):
    """Fused projections; where the number of heads is read is up to the place."""

    def __init__(self, place, sizes):
        super().__init__()
        self.place, self.sizes = place, sizes
        self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        heads = self.place(self.sizes)
        q, k, v = (t.view(b, n, heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


PLACES = {
    "config": (lambda sizes: sizes.n_head, Config, "sizes.n_head"),
    "namespace": (lambda sizes: sizes.n_head, lambda: SimpleNamespace(n_head=4), "sizes.n_head"),
    "dict": (lambda sizes: sizes["n_head"], lambda: {"n_head": 4, "x": 3}, "sizes['n_head']"),
    "nested": (
        lambda sizes: sizes["text"].n_head,
        lambda: {"text": Config()},
        "sizes['text'].n_head",
    ),
    "list": (lambda sizes: sizes.heads[1], lambda: SimpleNamespace(heads=[8, 4]), "sizes.heads[1]"),
    "named tuple": (lambda sizes: sizes.heads, lambda: Shape(4, 3), "sizes[0]"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_number_of_heads_follows_wherever_it_is_held(name, tmp_path, monkeypatch):
    monkeypatch.setattr(size_attributes, "_COUNTS", set(size_attributes._COUNTS))
    place, make_sizes, written = PLACES[name]
    if name == "named tuple":
        counts_units("sizes[0]")

    def make():
        return seeded(lambda: Net(Attention(place, make_sizes())))

    model = make()
    graph, (_, few) = pruned(model, X)
    assert {g.name: g.n_units for g in graph.groups} == {"hidden": 7, "blocks.0.qkv": HEADS}
    assert [(s.module, s.name, s.size) for s in graph.sizes] == [("blocks.0", written, HEADS)]
    assert place(model.blocks[0].sizes) == HEADS
    assert place(few.blocks[0].sizes) == few.blocks[0].o.in_features // 3 < HEADS
    surgery.save(few, tmp_path / "few.safetensors")
    back = surgery.load(make(), tmp_path / "few.safetensors")
    assert torch.equal(back(X), few(X))
    assert place(back.blocks[0].sizes) == place(few.blocks[0].sizes)


def test_a_config_that_layers_share_says_another_number_in_each(tmp_path):
    config = Config()

    def make():
        return seeded(lambda: Net(*(Attention(lambda own: own.n_head, config) for _ in range(2))))

    model = make()
    plan = mipp.plan(model, [X], widths={"blocks.0.qkv": 1, "blocks.1.qkv": 3}, noise=0.1)
    small = mipp.Plan.from_json(plan.to_json(), model).apply(refit=False)
    torch.testing.assert_close(small(X), plan.mask()(X))
    assert [block.sizes.n_head for block in small.blocks] == [1, 3]
    assert config.n_head == HEADS
    assert model.blocks[0].sizes is model.blocks[1].sizes is config
    mipp.save(small, tmp_path / "small.safetensors")
    assert torch.equal(mipp.load(make(), tmp_path / "small.safetensors")(X), small(X))


def test_only_plain_data_is_looked_into_and_changed_in_copies():
    class Kind(Enum):
        ONE = 1

    class Store:
        def __init__(self):
            self.count, self.layer = 3, nn.Linear(2, 2)

    module = nn.Module()
    module.size, module.flag, module.kind, module.store = 5, True, Kind.ONE, Store()
    module.deep = {"a": [(2, 3), {"b": Config()}], 7: 4}
    module.shape = torch.ones(2, 3).shape
    assert integers(module) == {
        "size": 5,
        "deep['a'][0][0]": 2,
        "deep['a'][0][1]": 3,
        "deep['a'][1]['b'].n_head": HEADS,
        "deep['a'][1]['b'].width": WIDTH,
        "deep[7]": 4,
    }
    before = copy.deepcopy(module.deep)
    sizes = module.deep
    put(module, "deep['a'][1]['b'].n_head", 9)
    put(module, "deep['a'][0][1]", 8)
    assert sizes == before
    assert module.deep == {"a": [(2, 8), {"b": Config(9)}], 7: 4}


class NanoAttention(nn.Module):
    """Takes the width of its input for that of all heads, as nanoGPT and older timm do."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.n_head, self.n_embd, self.scale = HEADS, WIDTH, scale
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = (
            part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(self.n_embd, dim=2)
        )
        made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(made.transpose(1, 2).contiguous().view(b, t, c))


def any_number_of_heads(self, x):
    """What to register for it."""
    q, k, v = (
        part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
        for part in self.c_attn(x).chunk(3, dim=-1)
    )
    made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.c_proj(made.transpose(1, 2).flatten(2)) * self.scale


@pytest.fixture(autouse=True)
def _classes(monkeypatch):
    monkeypatch.setattr(forwards, "_FORWARDS", dict(forwards._FORWARDS))


def test_a_registered_forward_lets_heads_go_that_the_own_one_holds(tmp_path):
    def make():
        return seeded(lambda: Net(NanoAttention(), NanoAttention()))

    graph, _ = pruned(make(), X)
    assert [group.name for group in graph.groups] == ["hidden"]
    assert "blocks.0.c_attn: RuntimeError: shape '[4, 5, " in reasons(graph)
    pruned_forward(NanoAttention)(any_number_of_heads)
    graph, (_, few) = pruned(make(), X)
    names = {g.name: g.n_units for g in graph.groups}
    assert names == {"hidden": 7, "blocks.1.c_attn": HEADS, "blocks.0.c_attn": HEADS}
    assert isinstance(few.blocks[0], NanoAttention)
    surgery.save(few, tmp_path / "few.safetensors")
    assert torch.equal(surgery.load(make(), tmp_path / "few.safetensors")(X), few(X))
    # only a module that was cut runs it, and one that does can be pruned again
    plan = mipp.plan(make(), [X], widths={"blocks.1.c_attn": 3}, noise=0.1)
    small = plan.apply(refit=False)
    assert type(small.blocks[0]) is NanoAttention
    assert type(small.blocks[1]) is not NanoAttention
    again, _ = pruned(small, X)
    assert {g.name: g.n_units for g in again.groups}["blocks.1.c_attn"] == 3


def test_a_model_with_a_registered_forward_can_be_copied_and_pickled():
    pruned_forward(NanoAttention)(any_number_of_heads)
    model = seeded(lambda: Net(NanoAttention()))
    small = mipp.plan(model, [X], widths={"blocks.0.c_attn": 3}, noise=0.1).apply(refit=False)
    assert type(small.blocks[0]) is not NanoAttention
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    forwards._FORWARDS.clear()  # another process, which has registered nothing
    for again in (torch.load(file, weights_only=False), copy.deepcopy(small)):
        assert type(again.blocks[0]) is type(small.blocks[0])
        assert again(X).equal(small(X))


def test_a_registered_forward_by_name_that_computes_something_else_is_found_out():
    pruned_forward(f"{__name__}.NanoAttention")(any_number_of_heads)
    graph, _ = pruned(seeded(lambda: Net(NanoAttention(scale=2.0))), X)
    assert [group.name for group in graph.groups] == ["hidden"]
    assert "blocks.0.c_attn: outputs differ by" in reasons(graph)
