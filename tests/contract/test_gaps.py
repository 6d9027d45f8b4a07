"""Corners that real models have: layers that run for nothing, transposed or expanded parameters."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp import graph, statistics
from mipp.planning import prunable_graph
from tests.graph.checks import counted

from .zoo import ZOO


def usable(model, *args):
    return prunable_graph(model.eval(), statistics.read_batches([(args, None)], None))


class Unread(nn.Module):
    """The last layer of a residual stream of which only the skips are read, as in WaveNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Linear(5, 8), nn.Linear(8, 7)
        self.same, self.skip = nn.Linear(7, 8), nn.Linear(7, 3)

    def forward(self, x):
        x = self.stem(x)
        made = torch.tanh(self.inner(x))
        _ = x + self.same(made)
        return self.skip(made)


def test_a_layer_that_runs_for_nothing_is_sliced_with_the_others():
    torch.manual_seed(0)
    model, batch = Unread().eval(), torch.randn(64, 5)
    assert {group.name for group in usable(model, batch).groups} == {"inner", "stem"}
    plan = mipp.plan(model, [batch], "units=50%", refit=False)  # by gradients, which it has none of
    small = plan.apply()
    torch.testing.assert_close(small(batch), plan.mask()(batch))
    assert small.same.weight.shape == (small.stem.out_features, small.inner.out_features)


def test_instance_norm_without_parameters_does_not_warn_in_the_small_model():
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3)
    ).eval()  # fmt: skip
    batch = torch.randn(4, 2, 7, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = mipp.prune(model, [batch], "units=50%", noise=0.1, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small(batch).shape == model(batch).shape


class Transposed(nn.Module):
    """Parameters whose transpose is what a layer or a product is given."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.left, self.right = nn.Parameter(torch.randn(8, 7)), nn.Parameter(torch.randn(3, 7))

    def forward(self, x):
        hidden = F.linear(self.first(x).relu(), self.left.t()).tanh()
        return hidden @ self.right.T


def test_transposed_parameters_are_pruned_and_refitted():
    torch.manual_seed(0)
    model, batch = Transposed().double().eval(), torch.randn(200, 5).double()
    plan = mipp.plan(model, [batch], "units=60%", noise=0.1)
    bare, small = plan.apply(refit=False), plan.apply()
    torch.testing.assert_close(bare(batch), plan.mask()(batch))
    assert bare.left.shape == (bare.first.out_features, bare.right.shape[1])
    error, fitted = ((net(batch) - model(batch)).norm() for net in (bare, small))
    assert fitted < 0.7 * error


def test_a_refit_leaves_alone_what_is_read_elsewhere_too():
    entry = ZOO["tied autoencoder"]
    model, (args, kwargs) = entry.built().double().eval(), entry.arguments()
    assert not kwargs
    batch = torch.randn(200, args[0].shape[1]).double()
    plan = mipp.plan(model, [batch], "units=50%", noise=0.1)
    small, bare = plan.apply(), plan.apply(refit=False)
    torch.testing.assert_close(small.encode.weight, bare.encode.weight, rtol=0, atol=0)
    torch.testing.assert_close(small.shift, bare.shift, rtol=0, atol=0)
    assert not torch.equal(small.inner.weight, bare.inner.weight)
    error, fitted = ((net(batch) - model(batch)).norm() for net in (bare, small))
    assert fitted < error


class Repeated(nn.Module):
    """One head of keys and values, repeated for all query heads by an attribute."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.n_rep = 4, 3, 4
        self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 3), nn.Linear(6, 3)
        self.o = nn.Linear(12, 2)

    def forward(self, x):
        q = self.q(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        k, v = (f(x)[:, None].repeat_interleave(self.n_rep, dim=1) for f in (self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_query_heads_of_one_repeated_key_and_value_head_are_units():
    found = usable(Repeated(), torch.randn(4, 5, 6))
    assert [(group.name, group.n_units) for group in found.groups] == [("q", 4)]


class Latent(nn.Module):
    """A layer on learnt vectors that were expanded to the number of examples."""

    def __init__(self):
        super().__init__()
        self.start, self.layer = nn.Parameter(torch.randn(3, 5)), nn.Linear(5, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.layer(self.start.expand(len(x), -1, -1)).relu() + x[:, None, None])


def test_work_on_expanded_parameters_is_counted_for_one_example():
    model, x = Latent().eval(), torch.randn(2)
    assert graph.cost(graph.trace(model, (x,))).macs == counted(model, x)[0]


class Biased(nn.Module):
    """Attention with a bias of each head at each distance, kept from the first pass."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.out = nn.Linear(8, 48), nn.Linear(16, 3)
        self.biases = nn.Parameter(torch.randn(4, 6))
        distance = (torch.arange(6).unsqueeze(0) - torch.arange(6).unsqueeze(1)).abs()
        self.register_buffer("distance", distance, persistent=False)
        self.bias_cache = {}

    def bias(self, device):
        if self.training:
            return self.biases[:, self.distance]
        if device not in self.bias_cache:
            self.bias_cache[device] = self.biases[:, self.distance]
        return self.bias_cache[device]

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) / 2 + self.bias(str(x.device))).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


def test_what_a_model_keeps_from_a_pass_is_made_anew_in_the_small_one():
    """As LeViT, EfficientFormer and TinyViT of timm do when they are evaluated."""
    torch.manual_seed(0)
    model, batch = Biased().eval(), torch.randn(16, 6, 8)
    with torch.no_grad():
        before = model(batch)
    kept = model.bias_cache["cpu"]
    plan = mipp.plan(model, [batch], "units=50%", noise=0.1, refit=False)
    assert {name: len(units) for name, units in plan.keep.items()} == {"qkv": 2}
    small = plan.apply()
    torch.testing.assert_close(small(batch), plan.mask()(batch))
    assert small.bias_cache["cpu"].shape == (2, 6, 6)
    assert model.bias_cache["cpu"] is kept
    assert torch.equal(model(batch), before)


def test_dicts_that_are_no_cache_of_a_pass_stay():
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            self.shift_cache = {"in": torch.ones(4)}

        def forward(self, x):
            return super().forward(x + self.shift_cache["in"])

    small = mipp.prune(Net().eval(), [torch.randn(32, 4)], "units=50%", noise=0.1)
    assert small(torch.randn(2, 4)).shape == (2, 2)


class Positions(nn.Module):
    """A small network makes a bias of places, the same for every example, as in Swin v2."""

    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.randn(9, 2))
        self.bias = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 9))
        self.body, self.out = nn.Linear(5, 9), nn.Linear(9, 3)

    def forward(self, x):
        return self.out(torch.relu(self.body(x) + self.bias(self.places).mean(0)))


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_a_layer_that_runs_on_no_example_is_fitted_on_what_it_always_gets(granularity):
    torch.manual_seed(0)
    model, batches = Positions().eval(), list(torch.randn(96, 5).split(32))
    budget = "units=50%" if granularity == "unit" else "params=50%"
    plan = mipp.plan(model, batches, budget, granularity=granularity, noise=0.1)
    x = torch.cat(batches)
    off = [(plan.apply(refit=r)(x) - model(x)).square().mean().item() for r in (False, True)]
    assert off[1] < off[0]


class JoinedBias(nn.Module):
    """Attention whose keys have no bias, as in BEiT; and a layer with a bias in two parts."""

    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.out = nn.Linear(8, 48, bias=False), nn.Linear(16, 6)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16))
        self.mix = nn.Linear(6, 5, bias=False)
        self.left, self.right = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(3))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        b, n, _ = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        made = F.linear(x, self.qkv.weight, bias)
        q, k, v = made.reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).relu()
        return self.last(F.linear(x, self.mix.weight, torch.cat((self.left, self.right))).relu())


def test_a_bias_put_together_out_of_others_is_sliced_in_its_parts_and_not_fitted():
    torch.manual_seed(0)
    model, batch = JoinedBias().eval(), torch.randn(64, 6, 8)
    with torch.no_grad():
        for layer in (model.qkv, model.out, model.mix):
            layer.weight.mul_(3)
    plan = mipp.plan(model, [batch], "units=60%", noise=0.1)
    assert {"qkv", "out", "mix"} == set(plan.keep)
    small = plan.apply(refit=False)
    torch.testing.assert_close(small(batch), plan.mask()(batch))
    assert len(small.left) + len(small.right) == small.mix.out_features == len(plan.keep["mix"])
    fitted = plan.apply()
    assert torch.equal(fitted.left, small.left)
    assert torch.equal(fitted.q_bias, small.q_bias)
    off = [(net(batch) - model(batch)).square().mean().item() for net in (small, fitted)]
    assert off[1] < 0.9 * off[0]
