"""What mipp leaves as it is, or says, for a wrong reason. Each has to fail until it is mended."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp import capture, graph
from mipp.errors import GraphError
from mipp.pipeline import usable_graph
from tests.graph.checks import counted

from .zoo import ZOO


def usable(model, *args):
    return usable_graph(model.eval(), capture.read_batches([(args, None)], None))


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


@pytest.mark.xfail(
    strict=True, reason="layers whose output nothing reads are dropped from the trace, not sliced"
)
def test_a_layer_that_runs_for_nothing_is_sliced_with_the_others():
    found = usable(Unread(), torch.randn(4, 5))
    assert {group.name for group in found.groups} == {"inner", "stem"}


def test_a_layer_that_runs_for_nothing_breaks_nothing():
    """Refused for now, with the error of the sliced model."""
    with pytest.raises(GraphError, match="RuntimeError"):
        usable(Unread(), torch.randn(4, 5))


@pytest.mark.xfail(
    strict=True, reason="num_features of an instance norm without parameters stays what it was"
)
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
        small(batch)


@pytest.mark.xfail(
    strict=True, reason="a transposed parameter in F.linear is told to use F.linear instead"
)
def test_a_transposed_weight_is_pruned_or_refused_for_what_it_is():
    entry = ZOO["tied autoencoder"]
    try:
        usable(entry.built(), *entry.arguments()[0])
    except GraphError as error:
        assert "use torch.nn.functional.linear" not in str(error)  # noqa: PT017 # or not raised


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


@pytest.mark.xfail(
    strict=True, reason="repeat_interleave of one head forgets which attribute spells how often"
)
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


@pytest.mark.xfail(
    strict=True, reason="an expanded parameter is not known to hold the examples, and counted twice"
)
def test_work_on_expanded_parameters_is_counted_for_one_example():
    model, x = Latent().eval(), torch.randn(2)
    assert graph.cost(graph.trace(model, (x,))).macs == counted(model, x)[0]
