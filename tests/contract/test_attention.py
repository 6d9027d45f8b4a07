"""Attention in every form of the zoo: heads go, masked = sliced, and files bring them back."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp import statistics, surgery
from mipp.errors import FileError, InputError
from mipp.graph import cost, counts_units, spelled
from mipp.planning import prunable_graph
from mipp.tracing.attention import PrunedAttention
from tests.graph.checks import counted
from tests.graph.slicing import random_keep

from .attention_zoo import HEADS, SIZE, WIDTH, ZOO, Block, Fused, Separate, Torch

TOKENS = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(0))


def built(name):
    torch.manual_seed(0)
    return Block(ZOO[name]()).double().eval()


def usable(model, *args):
    return prunable_graph(model, statistics.read_batches([*args] or [TOKENS], None))


def check(model, graph, keep, make, path, *args):
    """Masked = sliced, in numbers and in cost; and what is saved and loaded is the same."""
    kept = surgery.kept_indices(graph, keep)
    sizes = surgery.attribute_keeps(graph, kept)
    small = surgery.slice_model(model, kept, graph.aliases, sizes)
    masked = surgery.mask_model(model, graph, keep)
    args = args or (TOKENS,)
    same = surgery.same_outputs(masked, small, args, tolerance=1e-5)
    assert same.ok, same.message
    now = cost(graph, keep)
    assert now.params == sum(tensor.numel() for tensor in small.parameters())
    surgery.save(small, path)
    back = surgery.load(make(), path)
    assert torch.equal(back(*args), small(*args))
    assert surgery.recorded_sizes(back) == sizes
    return small


@pytest.mark.parametrize("name", ZOO)
def test_heads_are_units_and_masked_is_sliced(name, tmp_path):
    model = built(name)
    before = {key: value for key, value in vars(model.attention).items() if type(value) is int}
    graph = usable(model)
    heads = [g for g in graph.groups if g.n_units in (2, HEADS)]
    assert heads
    for group in heads:
        reads = graph.axes[graph.consumers[group.consumers[0]].in_axis]
        assert np.array_equal(
            reads.unit, np.arange(HEADS * SIZE) // (HEADS * SIZE // group.n_units)
        )
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(1), share)
        small = check(model, graph, keep, lambda: built(name), tmp_path / "small.safetensors")
        # float64 keeps attention off kernels that the counter does not know
        assert counted(small, TOKENS)[0] == pytest.approx(cost(graph, keep).macs)
        small.train()(TOKENS).sum().backward()
    now = vars(model.attention)
    assert all(type(now[key]) is int and now[key] == before[key] for key in before)


@pytest.mark.parametrize("name", ["separate", "torch", "fused split"])
def test_plans_carry_the_attributes(name, tmp_path):
    model = built(name)
    plan = mipp.plan(model, [TOKENS], "units=50%", samples=4, noise=0.1)
    text = plan.to_json()
    small = mipp.Plan.from_json(text, model).apply(refit=False)
    assert torch.equal(small(TOKENS), plan.apply(refit=False)(TOKENS))
    torch.testing.assert_close(small(TOKENS), plan.mask()(TOKENS))
    assert '"num_heads"' in text
    assert plan.apply()(TOKENS).isfinite().all()
    # pruned again: indices and attributes count in the full-size model
    again = mipp.plan(small, [TOKENS], "units=60%", samples=4, noise=0.1).apply()
    mipp.save(again, tmp_path / "again.safetensors")
    back = mipp.load(built(name), tmp_path / "again.safetensors")
    assert torch.equal(back(TOKENS), again(TOKENS))
    assert {size.before for size in surgery.recorded_sizes(back) if size.name == "num_heads"} == {
        HEADS
    }


def test_a_head_that_nothing_is_read_from_goes_first():
    model = built("torch")
    with torch.no_grad():
        model.attention.inner.out_proj.weight[:, SIZE : 2 * SIZE] = 0
    plan = mipp.plan(model, [TOKENS], widths={"attention.inner.in_proj_weight": 3}, noise=0.1)
    assert list(plan.keep.values()) == [(0, 2, 3)]
    torch.testing.assert_close(plan.apply(refit=False)(TOKENS), model(TOKENS))


def test_only_layers_that_lose_heads_are_replaced():
    model = built("encoder").float()
    names = [f"attention.layers.{i}.self_attn.in_proj_weight" for i in range(2)]
    small = mipp.plan(model, [TOKENS], widths={names[0]: 2}, noise=0.1).apply(refit=False)
    kinds = [type(layer.self_attn) for layer in small.attention.layers]
    assert kinds == [PrunedAttention, nn.MultiheadAttention]
    assert small.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():  # where PyTorch's encoder layers like to run in one kernel
        padding = torch.zeros(4, 5, dtype=torch.bool)
        padding[:, 4:] = True
        x = torch.randn(4, 5, WIDTH)
        made = small.attention(x, src_key_padding_mask=padding)
    assert made.shape == x.shape


class WidthOfTheInput(Separate):
    """Takes the width of its input for that of all heads, as much code does."""

    def join(self, made):
        return made.transpose(1, 2).reshape(len(made), -1, WIDTH)


class OneNumberForTwo(Fused):
    """The same attribute spells the width of the heads and that of the stream."""

    def forward(self, x):
        x = x.view(len(x), -1, self.split_size)
        q, k, v = (
            part.unflatten(-1, (-1, SIZE)).transpose(1, 2)
            for part in self.qkv(x).split(self.split_size, 2)
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Averaged(Torch):
    def forward(self, x):
        made, shares = self.inner(x, x, x)
        return made * shares.amax(-1, keepdim=True)


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (WidthOfTheInput, "RuntimeError: shape '[4, -1, 12]' is invalid for input of size"),
        (OneNumberForTwo, "attention.split_size spells its size and also that of something else"),
        (Averaged, "it takes one number over all channels"),
    ],
)
def test_what_cannot_follow_is_refused_with_the_reason(attention, reason):
    torch.manual_seed(0)
    model = nn.Sequential(Block(attention()), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    graph = usable(model)
    assert [group.name for group in graph.groups] == ["1", "0.out"]
    assert any(reason in item.reason for item in graph.refused)


class Slots(nn.Module):
    """A split by a name that mipp does not know."""

    def __init__(self):
        super().__init__()
        self.n_slots, self.size = HEADS, SIZE
        self.a, self.o = nn.Linear(WIDTH, HEADS * SIZE), nn.Linear(HEADS * SIZE, WIDTH)

    def forward(self, x):
        made = self.a(x).view(len(x), -1, self.n_slots, self.size)
        return self.o((made * made.mean(-1, keepdim=True)).flatten(2))


def test_names_that_count_units_can_be_added(monkeypatch, tmp_path):
    monkeypatch.setattr(spelled, "_COUNTS", set(spelled._COUNTS))

    def make():
        torch.manual_seed(0)
        return nn.Sequential(Block(Slots()), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()

    assert "0.attention.a" not in [group.name for group in usable(make()).groups]
    counts_units("n_slots")
    graph = usable(make())
    assert {g.name: g.n_units for g in graph.groups}["0.attention.a"] == HEADS
    keep = random_keep(graph, random.Random(0), 0.5)
    small = check(make(), graph, keep, make, tmp_path / "s.safetensors")
    assert small[0].attention.n_slots == small[0].attention.a.out_features // SIZE < HEADS


def test_files_and_plans_for_other_numbers_of_heads_are_refused(tmp_path):
    model = built("separate")
    plan = mipp.plan(model, [TOKENS], "units=50%", samples=4, noise=0.1)
    mipp.save(plan.apply(), tmp_path / "small.safetensors")
    other = built("separate")
    other.attention.num_heads, other.attention.head_dim = 6, 2
    with pytest.raises(FileError, match="'num_heads' of 'attention' should be 4 and is 6"):
        mipp.load(other, tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="'num_heads' of 'attention' should be 4 and is 6"):
        mipp.Plan.from_json(plan.to_json(), other).apply(refit=False)
    small = plan.apply()
    small.attention.num_heads = 7
    with pytest.raises(InputError, match=r"'num_heads' of 'attention' should be \d and is 7"):
        mipp.save(small, tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "heads", "padding", "both"])
def test_attention_written_out_is_that_of_torch(mask, need_weights):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double().eval()
    ours = copy.deepcopy(layer)
    PrunedAttention.take_over(ours)
    x, y = torch.randn(2, 3, 5, WIDTH).double()
    ahead = torch.ones(5, 5).triu(1).bool()
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    options = {
        "none": {},
        "bool": {"attn_mask": ahead},
        "float": {"attn_mask": torch.randn(5, 5).double()},
        "heads": {"attn_mask": torch.randn(3 * HEADS, 5, 5).double()},
        "padding": {"key_padding_mask": padding},
        "both": {"key_padding_mask": padding, "attn_mask": ahead},
    }[mask]
    for inputs in ((x, x, x), (x, y, y), (x, y, x)):
        want = layer(*inputs, need_weights=need_weights, average_attn_weights=False, **options)
        have = ours(*inputs, need_weights=need_weights, average_attn_weights=False, **options)
        torch.testing.assert_close(have, want)


class Apart(nn.Module):
    """The functional form with three weights, and an empty one where all three would be in one."""

    def __init__(self, **names):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.hidden, self.out = nn.Linear(WIDTH, 10), nn.Linear(10, 3)
        self.num_heads = HEADS
        self.names = names

    def forward(self, tokens):
        x = self.embed(tokens).transpose(0, 1)
        biases = torch.cat([layer.bias for layer in (self.q, self.k, self.v)])
        made, _ = F.multi_head_attention_forward(
            x, x, x, WIDTH, self.num_heads, x.new_empty(0), biases, None, None, False, 0.0,
            self.o.weight, self.o.bias, training=False, use_separate_proj_weight=True,
            q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
            **self.names,
        )  # fmt: skip
        return self.out(F.relu(self.hidden(made.transpose(0, 1))))


@pytest.mark.parametrize("need_weights", [True, False])
def test_projections_given_apart_beside_an_empty_weight_are_taken(need_weights):
    model = Apart(need_weights=need_weights).eval()
    graph = usable(model)
    assert [group.name for group in graph.groups] == ["hidden", "o"]
    reasons = {refusal.name: refusal.reason for refusal in graph.refused}
    # PyTorch's own function, which the small model calls, takes all heads or none
    assert "F.multi_head_attention_forward(" in reasons["q"]
    plan = mipp.plan(model, [TOKENS], budget="units=50%", noise=0.1)
    small = plan.apply(refit=False)
    torch.testing.assert_close(plan.mask()(TOKENS), small(TOKENS))
    assert plan.after.macs < plan.before.macs
    plan.apply()
