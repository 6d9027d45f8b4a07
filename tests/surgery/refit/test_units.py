"""The refit restores what can be restored, and touches nothing else."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from mipp import graph
from mipp.errors import InputError, SurgeryError
from mipp.surgery import Piece, Refit, kept_indices, refit, slice_model

EXACT = Refit(ridge=1e-9, norm="mean", rows_per_feature=1e9)


def pieces(*batches):
    return [Piece(((x,), {}), number, len(x)) for number, x in enumerate(batches)]


def refitted(model, x, removed, config=EXACT):
    """The model without the removed units of its last group, refitted on x."""
    model.eval()
    traced = graph.trace(model, (x[:4],))
    group = traced.groups[0]
    keep = np.ones(group.n_units, dtype=bool)
    keep[removed] = False
    kept = kept_indices(traced, {group.index: keep})
    small = slice_model(model, kept, traced.aliases)
    halves = x[: len(x) // 2], x[len(x) // 2 :]
    refit(small, model, traced, kept, pieces(*halves), config)
    return small


def tied(layer, norm=None):
    """Makes unit 2 of a layer the sum of units 0 and 1, plus a constant."""
    with torch.no_grad():
        layer.weight[2] = layer.weight[0] + layer.weight[1]
        if layer.bias is not None:
            layer.bias[2] = layer.bias[0] + layer.bias[1] + 0.7


@pytest.mark.parametrize("mode", ["sequential", "closed"])
def test_a_unit_that_the_others_tell_of_is_made_up_for_exactly(mode):
    model = nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.Linear(5, 3))
    tied(model[0])
    x = torch.randn(400, 4)
    small = refitted(model, x, [2], Refit(mode=mode, ridge=1e-9, rows_per_feature=1e9))
    assert small[0].out_features == 4
    fresh = torch.randn(50, 4)
    torch.testing.assert_close(small(fresh), model(fresh), rtol=1e-4, atol=1e-4)


def test_a_convolution_is_made_up_for_exactly():
    # no padding: a constant in the tied channel is then the same at every position
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Identity(), nn.Conv2d(5, 3, 3))
    tied(model[0])
    x = torch.randn(60, 2, 7, 7)
    small = refitted(model, x, [2])
    torch.testing.assert_close(small(x[:8]), model(x[:8]), rtol=1e-3, atol=1e-3)


def test_a_transposed_convolution_is_made_up_for_exactly():
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=False), nn.Identity(), nn.ConvTranspose2d(5, 3, 3, stride=2)
    )
    tied(model[0])
    x = torch.randn(60, 2, 7, 7)
    small = refitted(model, x, [2])
    torch.testing.assert_close(small(x[:8]), model(x[:8]), rtol=1e-3, atol=1e-3)


def test_without_a_bias_the_batch_norm_behind_takes_up_the_mean():
    model = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 2)
    )
    model[0].bias.data.fill_(1.0)
    x = torch.randn(500, 4)
    with torch.no_grad():
        hidden = model[2](model[1](model[0](x)))
    model[3].running_mean.copy_(hidden.mean(0))
    model[3].running_var.copy_(hidden.var(0))
    model.eval()
    traced = graph.trace(model, (x[:4],))
    (first,) = [g for g in traced.groups if g.name == "0"]
    keep = {first.index: np.array([True, True, False, True, False])}
    kept = kept_indices(traced, keep)
    small = slice_model(model, kept)
    refit(small, model, traced, kept, pieces(x), Refit(ridge=1e-6))
    with torch.no_grad():
        put_out = small[2](small[1](small[0](x)))
    torch.testing.assert_close(small[3].running_mean, put_out.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small[3].running_var, model[3].running_var)


def test_full_norm_follows_the_variance_as_well():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(300, 4)
    small = refitted(model, x, [1, 3], Refit(mode="norm", norm="full"))
    # the norm's own input did not change, so neither do its statistics
    torch.testing.assert_close(small[1].running_var, model[1].running_var[[0, 2, 4, 5]])
    torch.testing.assert_close(small[1].running_mean, model[1].running_mean[[0, 2, 4, 5]])


def test_sequential_beats_closed_beats_nothing_on_a_deep_net():
    torch.manual_seed(3)
    layers = [nn.Linear(8, 24), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(24, 24), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(24, 3)).eval()
    x = torch.randn(4000, 8)
    traced = graph.trace(model, (x[:4],))
    generator = np.random.default_rng(0)
    keep = {}
    for group in traced.groups:
        keep[group.index] = np.arange(group.n_units) < 14
        generator.shuffle(keep[group.index])
    kept = kept_indices(traced, keep)
    errors = {}
    fresh = torch.randn(1000, 8)
    for mode in ("none", "closed", "sequential"):
        small = slice_model(model, kept)
        if mode != "none":
            refit(small, model, traced, kept, pieces(x), Refit(mode=mode))
        errors[mode] = (small(fresh) - model(fresh)).square().mean().item()
    assert errors["sequential"] < errors["closed"] < 0.5 * errors["none"]


def test_with_nothing_removed_nothing_changes():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    small = refitted(model, torch.randn(40, 4), [])
    for ours, theirs in zip(small.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_strong_pull_keeps_the_old_weights():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(200, 4)
    small = refitted(model, x, [2], Refit(ridge=1e9))
    torch.testing.assert_close(
        small[2].weight, model[2].weight[:, [0, 1, 3, 4]], rtol=1e-4, atol=1e-5
    )
    zero = refitted(model, x, [2], Refit(ridge=1e9, toward="zero")).requires_grad_(False)
    assert float(zero[2].weight.abs().max()) < 1e-6


def test_a_weight_that_is_used_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x).relu()) + self.second(self.first(-x).relu())

    model = Twice().eval()
    x = torch.randn(50, 4)
    small = refitted(model, x, [1])
    assert small.first.out_features == 3
    assert torch.equal(small.second.weight, model.second.weight[:, [0, 2, 3]])


def test_the_original_is_untouched():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    refitted(model, torch.randn(20, 1, 8, 8), [0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_infinite_targets_are_an_error_that_says_what_to_do():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(40, 4)
    x[3] = torch.inf
    with pytest.raises(SurgeryError, match=r"refit of 2 gave weights that are not finite.*ridge"):
        refitted(model, x, [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "forward"}, "expected one of 'sequential', 'closed', 'norm'"),
        ({"toward": "new"}, "expected one of 'old', 'zero'"),
        ({"norm": "off"}, "expected one of 'mean', 'full', 'keep'"),
        ({"ridge": 0.0}, "expected a number above 0"),
    ],
)
def test_settings_that_do_not_fit_are_errors(options, message):
    with pytest.raises(InputError, match=message):
        Refit(**options)


@pytest.mark.parametrize("memory", [1.0, 1e12])
def test_both_nets_in_step_fit_what_one_after_the_other_fits(memory):
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3),
    ).eval()  # fmt: skip
    x = torch.randn(200, 2, 6, 6)
    traced = graph.trace(model, (x[:4],))
    kept = kept_indices(
        traced, {g.index: np.arange(g.n_units) < g.n_units - 2 for g in traced.groups}
    )
    one, parts = slice_model(model, kept), slice_model(model, kept)
    refit(one, model, traced, kept, pieces(x))
    refit(parts, model, traced, kept, pieces(*x.split([30, 70, 1, 99])), memory=memory)
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, one.state_dict()[name], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("norm", ["mean", "full"])
@pytest.mark.parametrize("memory", [1.0, 4e5])
def test_batches_that_do_not_fit_into_memory_are_run_again_and_fit_the_same(memory, norm):
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3),
    ).eval()  # fmt: skip
    batches = pieces(*torch.randn(400, 2, 6, 6).split(50))
    traced = graph.trace(model, (torch.randn(4, 2, 6, 6),))
    kept = kept_indices(
        traced, {g.index: np.arange(g.n_units) < g.n_units - 2 for g in traced.groups}
    )
    few = Refit(rows_per_feature=1, min_rows=300, few_rows=0.0, norm=norm)
    runs, fitted = {}, {}
    for limit in (memory, 1e12):
        small = slice_model(model, kept)
        calls = []
        small[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        refit(small, model, traced, kept, batches, few, memory=limit)
        runs[limit], fitted[limit] = len(calls), small.state_dict()
    assert runs[1e12] == 8
    assert runs[memory] > 8
    for name, value in fitted[memory].items():
        torch.testing.assert_close(value, fitted[1e12][name], rtol=1e-6, atol=1e-7)


def test_with_little_memory_the_original_runs_once_for_as_many_layers_as_there_is_room_for():
    torch.manual_seed(5)
    layers = []
    for inputs in (2, *[8] * 7):
        layers += [nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 3)).eval()
    batches = pieces(*torch.randn(240, 2, 6, 6).split(40))
    traced = graph.trace(model, (torch.randn(4, 2, 6, 6),))
    kept = kept_indices(
        traced, {g.index: np.arange(g.n_units) < g.n_units - 2 for g in traced.groups}
    )
    few = Refit(rows_per_feature=1, min_rows=600, few_rows=0.0)
    calls, fitted = {}, {}
    # 600 rows of up to 8 outputs in 6 batches: a quarter of the memory has room for 2 of 8 layers
    for limit in (1.0, 1.5e5, 1e12):
        small = slice_model(model, kept)
        calls[limit] = {model: 0, small: 0}
        hooks = [
            net[0].register_forward_pre_hook(
                lambda *_, net=net, mine=calls[limit]: mine.update({net: mine[net] + 1})
            )
            for net in (model, small)
        ]
        refit(small, model, traced, kept, batches, few, memory=limit)
        fitted[limit] = small.state_dict()
        for hook in hooks:
            hook.remove()
    runs = {limit: mine[model] / 6 for limit, mine in calls.items()}
    assert runs[1e12] == 1
    assert 3 <= runs[1.5e5] <= 6
    assert 7 <= runs[1.0] <= 9  # a layer at a time: 9 layers, of which the first is not fitted
    for limit in (1.0, 1.5e5):
        for name, value in fitted[limit].items():
            torch.testing.assert_close(value, fitted[1e12][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", [4e4, 8e4, 1.6e5, 3.2e5, 6.4e5])
def test_batches_that_go_apart_on_their_way_fit_the_same(memory):
    torch.manual_seed(5)
    layers, inputs = [], 2
    for outputs in (4, 6, 12, 20, 40):  # later places hold more
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(40 * 36, 3)).eval()
    batches = pieces(*torch.randn(96, 2, 6, 6).split(16))
    traced = graph.trace(model, (torch.randn(4, 2, 6, 6),))
    kept = kept_indices(
        traced, {g.index: np.arange(g.n_units) < g.n_units - 2 for g in traced.groups}
    )
    few = Refit(rows_per_feature=8, min_rows=2000, few_rows=0.0)
    fitted = []
    for limit in (memory, 1e12):
        small = slice_model(model, kept)
        refit(small, model, traced, kept, batches, few, memory=limit)
        fitted.append(small.state_dict())
    for name, value in fitted[0].items():
        torch.testing.assert_close(value, fitted[1][name], rtol=1e-5, atol=1e-6)


def test_an_error_of_one_batch_ends_all_of_them():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            hidden = self.a(x).relu()
            if self.a.out_features < 6 and float(x[0, 0]) == 7:
                raise ValueError("not this batch")
            return self.b(hidden)

    model, x = Fails().eval(), torch.randn(60, 4)
    x[40, 0] = 7
    traced = graph.trace(model, (x[:4],))
    kept = kept_indices(traced, {0: np.arange(6) < 3})
    small = slice_model(model, kept)
    before = threading.active_count()
    with pytest.raises(ValueError, match="not this batch"):
        refit(small, model, traced, kept, pieces(*x.split(20)))
    assert threading.active_count() == before
