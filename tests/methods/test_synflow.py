"""SynFlow: the flow is conserved, layer by layer and unit by unit."""

import pytest
import torch
from torch import nn

import mipp
from mipp.methods import SynFlow
from mipp.methods.shared.iterative import workable
from mipp.records import ChannelGraph

from .nets import Normed, jitter_norms, plain, question, some


def weights_of(model):
    return [n for n, p in model.named_parameters() if p.dim() > 1]


@pytest.mark.parametrize("pruned", [False, True])
def test_every_layer_passes_the_whole_flow_and_every_unit_what_it_takes_in(pruned):
    model = plain()
    keep = some(question(model).graph) if pruned else {}
    asked = question(model, keep=keep)
    total, terms = SynFlow().flow(asked)
    assert total > 0
    for name in weights_of(model):
        torch.testing.assert_close(terms[name].sum(), total, rtol=1e-12, atol=0)
        assert (terms[name] >= 0).all()
    taken_in, given_out = terms["0.weight"].sum((1, 2, 3)), terms["3.weight"].sum((0, 2, 3))
    torch.testing.assert_close(taken_in, given_out, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["6.weight"].sum(1), terms["8.weight"].sum(0))
    if pruned:
        gone = torch.from_numpy(~keep[2])
        assert (taken_in[gone] == 0).all()
        assert (taken_in[~gone] > 0).all()


def test_norms_of_a_trained_net_only_scale_the_flow():
    model = jitter_norms(Normed()).double()
    total, terms = SynFlow().flow(question(model))
    through = terms["inner.weight"].sum()
    torch.testing.assert_close(through, terms["outer.weight"].sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["first.weight"].sum(), total, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["norm2.weight"].sum(), through, rtol=1e-12, atol=0)
    shifted, _ = SynFlow(norms="absolute", bias=True).flow(question(model))
    assert abs(shifted / total - 1) > 0.01


def test_at_initialisation_the_flow_is_that_of_the_authors_code():
    model = Normed().double()
    with torch.no_grad():
        model.outer.bias.zero_()
        model.head.bias.zero_()
    ours, _ = SynFlow().flow(question(model))
    theirs, _ = SynFlow(norms="absolute", bias=True).flow(question(model))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(2, 6), nn.InstanceNorm1d(6),
        nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
    ],
)  # fmt: skip
def test_other_norms_only_scale_the_flow_too(norm):
    model = nn.Sequential(nn.Conv1d(4, 6, 1), norm, nn.ReLU(), nn.Conv1d(6, 2, 1)).double()
    batches = mipp.statistics.read_batches([torch.randn(8, 4, 3).double()])
    # some of these norms cannot be pruned, but flow passes them all the same
    alone = mipp.methods.Question(model, ChannelGraph((), (), {}, (), {}, ()), batches)
    total, terms = SynFlow().flow(workable(alone))
    torch.testing.assert_close(terms["0.weight"].sum(), total, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["3.weight"].sum(), total, rtol=1e-12, atol=0)


def test_a_flow_beyond_float32_is_finite():
    layers = [nn.Linear(64, 64) for _ in range(12)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(30.0)
    model = nn.Sequential(*layers)
    batches = mipp.statistics.read_batches([torch.randn(4, 64)])
    total, terms = SynFlow().flow(question(model, batches))
    assert 1e39 < total < float("inf")
    assert torch.isfinite(terms["0.weight"]).all()


def test_many_rounds_leave_every_layer_units_and_one_round_does_not():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 80), nn.ReLU(), nn.Linear(80, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip
    data = [torch.randn(32, 6)]
    once = mipp.plan(model, data, "units=12", method=SynFlow(rounds=1), min_units=0)
    often = mipp.plan(model, data, "units=12", method="synflow", min_units=0)
    assert once.collapsed == ("2",)
    assert often.collapsed == ()
    assert sorted(len(units) for units in often.keep.values()) == [4, 4, 4]
    assert often.record.options["rounds"] == 100
