"""Fused projections that code cuts by slices: the cuts move with the attributes that give them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.tracing.size_attributes import AttributeInt, terms_of
from tests.surgery.pruning import pruned, reasons, seeded

WIDTH, HEADS, KV, SIZE = 12, 4, 2, 3
X = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(0)).double()


class Attention(nn.Module):
    """Queries, keys and values in one projection, as in Phi-3."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = HEADS, KV, SIZE
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * KV) * SIZE)
        self.o = nn.Linear(HEADS * SIZE, WIDTH)

    def cut(self, qkv):
        queries = self.num_heads * self.head_dim
        keys = queries + self.num_kv_heads * self.head_dim
        return qkv[..., :queries], qkv[..., queries:keys], qkv[..., keys:]

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (
            part.view(b, n, -1, self.head_dim).transpose(1, 2) for part in self.cut(self.qkv(x))
        )
        groups = self.num_heads // self.num_kv_heads
        k, v = (part.repeat_interleave(groups, 1) for part in (k, v))
        made = F.scaled_dot_product_attention(q, k, v)
        made = made.transpose(1, 2).reshape(b, n, -1)
        return self.out(self.norm(x + self.o(made)).mean(1))


class Summed(Attention):
    """The same bounds, added up in another order of brackets, and ends that are given."""

    def cut(self, qkv):
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return qkv[..., 0:q], qkv[..., q : q + kv], qkv[..., q + kv : q + (kv + kv)]


class Narrowed(Attention):
    """In a tuple, behind an ellipsis, and along a dimension that is not the last one."""

    def cut(self, qkv):
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        qkv = qkv.transpose(1, 2)
        return (part.transpose(1, 2) for part in (qkv[:, :q], qkv[:, q : q + kv], qkv[:, q + kv :]))


@pytest.mark.parametrize("kind", [Attention, Summed, Narrowed])
def test_heads_of_a_projection_that_is_cut_by_slices_are_units(kind):
    model = seeded(kind)
    graph, (_, few) = pruned(model, X)
    assert {group.name: group.n_units for group in graph.groups} == {"qkv": KV}
    assert {(size.name, size.size) for size in graph.sizes} == {
        ("num_heads", HEADS), ("num_kv_heads", KV),
    }  # fmt: skip
    assert (few.num_heads, few.num_kv_heads, few.head_dim) == (2, 1, SIZE)
    assert few.qkv.out_features == (2 + 2) * SIZE


class Constant(Attention):
    """One of the cuts is a constant."""

    def cut(self, qkv):
        return qkv[..., :12], qkv[..., 12:18], qkv[..., 18:]


class Mixed(Attention):
    """One of the terms is a constant: the keys would be taken from another place."""

    def cut(self, qkv):
        queries = self.num_heads * self.head_dim
        return qkv[..., :queries], qkv[..., queries : queries + 6], qkv[..., queries + 6 :]


class Stepped(Attention):
    """Every second one."""

    def cut(self, qkv):
        queries = self.num_heads * self.head_dim
        rest = qkv[..., queries:]
        return qkv[..., :queries], rest[..., ::2], rest[..., 1::2]


class Swapped(Attention):
    """The terms of an end are not in the order of the parts, so that it is not known which is."""

    def cut(self, qkv):
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return qkv[..., :q], qkv[..., q : kv + q], qkv[..., q + kv :]


@pytest.mark.parametrize("kind", [Constant, Mixed, Stepped, Swapped])
def test_a_cut_that_no_attribute_moves_keeps_all_heads(kind):
    model = seeded(kind)
    hidden = nn.Linear(3, 7).double()
    graph, _ = pruned(nn.Sequential(model, hidden, nn.ReLU(), nn.Linear(7, 2).double()), X)
    assert "0.qkv" not in {group.name for group in graph.groups}
    assert "its length along the channels is a constant in the code" in reasons(graph)


def test_a_sum_knows_its_terms_and_forgets_them_where_one_is_unknown():
    heads = AttributeInt.of(4, (("", "heads"),), (4,))
    size = AttributeInt.of(3, (("", "size"),), (3,))
    q, kv = heads * size, AttributeInt.of(2, (("", "kv"),), (2,)) * size
    assert terms_of(q) == (q,)
    assert terms_of(0) == ()
    for total in (q + kv + kv, q + (kv + kv), sum([q, kv, kv])):
        assert total == 24
        assert [term.attributes for term in terms_of(total)] == [
            q.attributes, kv.attributes, kv.attributes,
        ]  # fmt: skip
    for plain in (q + 1, 1 + q, (q + kv) + 1, 1 + (q + kv), (q + kv) - kv, (q + kv) * 2, 5):
        assert terms_of(plain) is None
        assert type(plain) is int or terms_of(plain) is None
    assert q + 0.5 == 12.5
    assert (q + kv) + 0.5 == 18.5
