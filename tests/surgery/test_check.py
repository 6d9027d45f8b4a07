"""The check sees what the graph cannot, names the culprits, and leaves the model as it was."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from mipp.errors import InputError, SurgeryError
from mipp.records import Axis, AxisKey
from mipp.surgery.check import probe, same_outputs, trial_keep, vary_constants
from mipp.surgery.keeps import kept_indices
from mipp.surgery.mask import mask_model
from mipp.surgery.slice import slice_graph, slice_model
from mipp.surgery.tensors import named_tensors

from .hand_built import CASES, axis, consumer, graph


class Chain(nn.Module):
    """Linear layers; some of them check their width, as a shape written as a number does."""

    def __init__(self, depth=9, fixed=(), width=6):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth + 1))
        self.fixed, self.width = fixed, width
        self.runs = 0

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            if index in self.fixed:
                x = x.view(-1, self.width)  # the width is a number
        return x


def chain_graph(depth=9, width=6):
    names = [f"layers.{index}" for index in range(depth + 1)]
    axes = []
    for index in range(depth):
        axes += [axis(f"{names[index]}.{one}", 0, index, width) for one in ("weight", "bias")]
        axes += [axis(f"{names[index + 1]}.weight", 1, index, width)]
    return graph(
        [(names[index], width, f"{names[index]}.weight", 0) for index in range(depth)],
        axes,
        [consumer(name) for name in names],
    )


@pytest.mark.parametrize("name", CASES)
def test_sound_models_pass(name):
    case = CASES[name]()
    assert probe(case.model, case.graph, case.inputs) == []


@pytest.mark.parametrize("fixed", [(), (0,), (8,), (3, 4), (0, 4, 8), tuple(range(9))])
def test_every_culprit_is_found_and_no_other(fixed):
    broken = probe(Chain(fixed=fixed), chain_graph(), (torch.randn(3, 6),))
    assert tuple(group.index for group in broken) == fixed


def test_one_culprit_among_many_takes_a_logarithm_of_runs(monkeypatch):
    runs = []

    def counted(*args):
        runs.append(1)
        return slice_graph(*args)

    monkeypatch.setattr("mipp.surgery.check.slice_graph", counted)
    broken = probe(Chain(depth=64, fixed=(37,)), chain_graph(depth=64), (torch.randn(3, 6),))
    assert [group.index for group in broken] == [37]
    assert len(runs) <= 2 * math.log2(64) + 2


def test_reason_has_the_error_and_the_users_line():
    (group,) = probe(Chain(fixed=(2,)), chain_graph(), (torch.randn(3, 6),))
    assert "RuntimeError: shape '[-1, 6]' is invalid for input of size 9" in group.reason
    assert "test_check.py:" in group.reason
    assert "x = x.view(-1, self.width)  # the width is a number" in group.reason


class Pooled(nn.Linear):
    def forward(self, x):
        return super().forward(x).view(-1, 6).mean(1)


def test_static_view_that_does_not_raise_but_changes_the_batch():
    axes = [axis(name, 0, 0, 6) for name in ("weight", "bias")]
    channels = graph([("pooled", 6, "weight", 0)], axes, [])
    (group,) = probe(Pooled(6, 6), channels, (torch.randn(4, 6),))
    assert group.reason == "outputs have shapes [(2,)] instead of [(4,)]"


class Together(Chain):
    """Breaks only when two layers lose units."""

    def forward(self, x):
        if all(self.layers[index].out_features < 6 for index in (1, 7)):
            raise ValueError("both\ncannot be small")
        return super().forward(x)


def test_groups_that_break_only_together():
    first, second = probe(Together(), chain_graph(), (torch.randn(3, 6),))
    assert (first.index, second.index) == (1, 7)
    assert "ValueError: both (at" in first.reason
    assert first.reason.endswith("(when groups [1, 7] lose units)")


def test_wrong_channels_are_seen_also_in_a_fresh_norm_and_before_a_zero_layer():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    with torch.no_grad():
        model[2].weight.zero_()
    reverse = axis("1.weight", 0, 0, 6)
    reverse.unit[:] = reverse.unit[::-1].copy()
    names = ("0.weight", "0.bias", "1.bias", "1.running_mean", "1.running_var")
    channels = graph(
        [("0", 6, "0.weight", 0)],
        [reverse, axis("2.weight", 1, 0, 6), *(axis(name, 0, 0, 6) for name in names)],
        [consumer("2"), consumer("0")],
    )
    (group,) = probe(model, channels, (torch.randn(5, 6),))
    assert group.index == 0
    assert "outputs differ by" in group.reason


def test_a_slice_that_surgery_itself_refuses_is_a_reason():
    case = CASES["grouped"]()
    uneven = axis("grouped.weight", 0, 0, 12)
    channels = graph(
        [("grouped", 12, "grouped.weight", 0)],
        [uneven, axis("grouped.bias", 0, 0, 12), axis("last.weight", 1, 0, 12)],
        [consumer("last", "conv"), consumer("grouped", "conv")],
    )
    (group,) = probe(case.model, channels, case.inputs)
    assert "groups of the convolution would keep" in group.reason


def test_probe_leaves_the_model_alone_also_after_a_failure():
    for fixed, inputs in (((2,), torch.randn(3, 6)), ((), torch.randn(3, 5))):
        model = Chain(fixed=fixed).train()
        model.layers[0].eval()
        model.layers[1].requires_grad_(False)
        before = {name: t.detach().clone() for name, t in named_tensors(model).items()}
        modes = [module.training for module in model.modules()]
        state = torch.get_rng_state()
        try:
            probe(model, chain_graph(), (inputs,))
        except InputError:
            assert inputs.shape == (3, 5)
        assert all(torch.equal(before[name], t) for name, t in named_tensors(model).items())
        assert modes == [module.training for module in model.modules()]
        assert torch.equal(state, torch.get_rng_state())
        assert not model.layers[1].weight.requires_grad


def test_model_that_fails_on_the_example():
    # the line is the user's own, not torch's
    text = r"fails on the example input: RuntimeError: mat1 and mat2.*test_check.py:\d+: x = torch"
    with pytest.raises(InputError, match=text):
        probe(Chain(), chain_graph(), (torch.randn(3, 5),))


@pytest.mark.parametrize("width", [1, 2])
def test_the_trial_leaves_something_to_each_of_several_producers(width):
    """Fifty layers of one or two outputs each, joined: half of the units, but of no layer all."""

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.makers = nn.ModuleList(nn.Linear(3, width) for _ in range(50))
            self.reader = nn.Linear(50 * width, 2)

        def forward(self, x):
            return self.reader(torch.cat([maker(x) for maker in self.makers], 1))

    def part(name, index):
        units = np.arange(index * width, (index + 1) * width)
        return Axis(AxisKey(name, 0), np.zeros(width, dtype=np.int64), units)

    names = [(f"makers.{index}", index) for index in range(50)]
    channels = graph(
        [("joined", 50 * width, "makers.0.weight", 0)],
        [part(f"{name}.{one}", index) for name, index in names for one in ("weight", "bias")]
        + [axis("reader.weight", 1, 0, 50 * width)],
        [consumer("reader"), *(consumer(name) for name, _ in names)],
    )
    assert probe(Joined(), channels, (torch.randn(3, 3),)) == []
    assert trial_keep(channels)[0].sum() == 50


def test_groups_of_one_unit_are_left():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    channels = graph(
        [("0", 1, "0.weight", 0)],
        [axis("0.weight", 0, 0, 1), axis("0.bias", 0, 0, 1), axis("1.weight", 1, 0, 1)],
        [consumer("1"), consumer("0")],
    )
    assert probe(model, channels, (torch.randn(3, 2),)) == []


class Counting(nn.Module):
    """Puts out a number from outside, so that no two runs agree."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.calls = []

    def forward(self, x):
        COUNTED.append(1)
        return self.linear(x) + len(COUNTED)


COUNTED = []


def test_model_that_never_computes_the_same():
    with pytest.raises(SurgeryError, match="a copy with nothing removed computes something else"):
        probe(Counting(), graph([], [], []), (torch.randn(3, 2),))


# ------------------------------------------------------------------------------- same_outputs


@dataclass
class Output:
    logits: torch.Tensor
    extra: dict


class Nested(nn.Module):
    def __init__(self, shift=0.0):
        super().__init__()
        self.linear = nn.Linear(3, 2, bias=False)
        nn.init.ones_(self.linear.weight)
        self.dropout = nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))
        self.shift = shift

    def forward(self, x, *, scale):
        self.calls += 1
        x.mul_(scale)
        noise = torch.rand(2)
        return Output(self.linear(x), {"deep": [(self.dropout(x) + noise[0] + self.shift,)]})


def test_every_tensor_is_compared_and_everything_is_restored():
    first, second, shifted = Nested().train(), Nested().eval(), Nested(shift=1e-3)
    example, state = torch.ones(5, 3), torch.get_rng_state()
    same = same_outputs(first, second, (example,), {"scale": 1.5})
    assert (same.ok, same.difference, same.message) == (True, 0.0, "")
    other = same_outputs(first, shifted, (example,), {"scale": 1.5})
    assert not other.ok
    assert other.message.startswith("outputs differ by 0.000")
    assert 0.0003 < other.difference < 0.0007
    assert same_outputs(first, shifted, (example,), {"scale": 1.5}, tolerance=1e-2).ok
    assert torch.equal(example, torch.ones(5, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert (first.training, first.dropout.training, second.training) == (True, True, False)
    assert not first.calls
    assert not second.calls


class FailsOn(nn.Linear):
    def __init__(self, sizes):
        super().__init__(3, 2)
        nn.init.ones_(self.weight)
        nn.init.ones_(self.bias)
        self.sizes = sizes

    def forward(self, x):
        if len(x) in self.sizes:
            raise ValueError(f"cannot take {len(x)}")
        return super().forward(x)


@pytest.mark.parametrize(("size", "other"), [(4, 2), (3, 6), (1, 2)])
def test_another_batch_size_is_tried(size, other):
    sound, broken, example = FailsOn([]), FailsOn([other]), torch.randn(size, 3)
    result = same_outputs(sound, broken, (example,))
    assert not result.ok
    assert f"ValueError: cannot take {other}" in result.message
    # a first model that takes one size only is compared with that size only
    assert same_outputs(broken, sound, (example,)).ok
    with pytest.raises(InputError, match=f"cannot take {size}"):
        same_outputs(FailsOn([size]), sound, (example,))


class Gives(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self):
        return self.value


@pytest.mark.parametrize(
    ("one", "other", "ok"),
    [
        ([1.0, math.nan], [1.0, math.nan], True),
        ([1.0, math.nan], [math.nan, 1.0], False),
        ([1.0, math.inf], [1.0, math.inf], True),
        ([1.0, math.inf], [1.0, -math.inf], False),
        ([1.0, 2.0], [1.0, 2.00001], True),
        ([1.0, 2.0], [1.0, 2.01], False),
        ([1e-9, 2e-9], [1e-9, 4e-9], False),
        ([1, 2], [1, 3], False),
        ([1, 2], [1, 2], True),
        ([True], [False], False),
        ([], [], True),
        ([1 + 1j], [1 + 2j], False),
        ([0.0], [0.0], True),
    ],
)
def test_numbers(one, other, ok):
    result = same_outputs(Gives(torch.tensor(one)), Gives(torch.tensor(other)))
    assert result.ok is ok
    assert bool(result.message) is not ok


def test_bfloat16_has_a_wider_tolerance():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.05])
    assert not same_outputs(Gives(one), Gives(other)).ok
    assert same_outputs(Gives(one.bfloat16()), Gives(other.bfloat16())).ok


def test_no_tensor_to_compare():
    with pytest.raises(InputError, match="puts out no tensor"):
        same_outputs(Gives(3), Gives(3))


def test_modes_come_back_after_an_error():
    first, second = FailsOn([3]).train(), FailsOn([]).train()
    with pytest.raises(InputError):
        same_outputs(first, second, (torch.randn(3, 3),))
    assert first.training
    assert second.training


def test_out_of_memory_is_not_blamed_on_a_group(monkeypatch):
    def exhausted(self, x):
        raise torch.OutOfMemoryError("no memory left")

    case = CASES["lenet"]()
    monkeypatch.setattr(nn.Linear, "forward", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        probe(case.model, case.graph, case.inputs)


def test_vary_constants_changes_constants_only():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    varied = vary_constants(model)
    assert torch.equal(varied[0].weight, model[0].weight)
    assert len(set(varied[1].weight.tolist())) == 4
    assert torch.equal(model[1].weight, torch.ones(4))


def test_same_outputs_of_masked_and_sliced():
    case = CASES["mixed"]()
    masked = mask_model(case.model, case.graph, case.keep)
    small = slice_model(case.model, kept_indices(case.graph, case.keep))
    assert same_outputs(masked, small, case.inputs, tolerance=1e-5).ok
    assert not same_outputs(case.model, small, case.inputs).ok
    assert np.isfinite(same_outputs(case.model, small, case.inputs).difference)


class Ratio(nn.Module):
    """Divides one width by another one, both of which get smaller."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = torch.tanh(self.a(x))
        return self.c(torch.tanh(self.b(x))) * (self.b.out_features / self.b.in_features)


def test_widths_in_proportion_to_each_other_do_not_hide_a_break():
    names = ["a", "b", "c"]
    axes = []
    for index in range(2):
        axes += [axis(f"{names[index]}.{one}", 0, index, 6) for one in ("weight", "bias")]
        axes += [axis(f"{names[index + 1]}.weight", 1, index, 6)]
    made = [(names[index], 6, f"{names[index]}.weight", 0) for index in range(2)]
    channels = graph(made, axes, [consumer("b"), consumer("c")])
    broken = probe(Ratio(), channels, (torch.randn(3, 6),))
    assert {group.index for group in broken} == {0, 1}


def test_an_example_with_indices_beside_it_is_not_cut():
    seen = []

    class Watched(nn.Module):
        def forward(self, x, edges):
            seen.append(len(x))
            return x[edges]

    x, edges = torch.randn(8, 3), torch.tensor([[0, 7, 3]])
    assert same_outputs(Watched(), Watched(), (x, edges)).ok
    assert seen == [8, 8]
    seen.clear()
    assert same_outputs(Watched(), Watched(), (x, edges[0, [0, 0, 0, 2, 2, 2, 0, 0]])).ok
    assert seen == [8, 8, 4, 4]
