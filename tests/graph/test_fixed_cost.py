"""Ops without a rule: what goes in stays, so that they cost a fixed number, or are listed."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp.graph import CostModel, cost, trace

from .checks import counted
from .slicing import random_keep, sliced

IN, OUT = 16, 6


class Net(nn.Module):
    """A layer, an op over its 16 features, and two layers behind it, of which one can be pruned."""

    def __init__(self, op, *shapes):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.out = nn.Linear(8, IN), nn.Linear(IN, OUT), nn.Linear(OUT, 2)
        self.weights = nn.ParameterList(torch.randn(shape) / 4 for shape in shapes)
        self.op = op

    def forward(self, x):
        return self.out(F.relu(self.second(self.op(self.first(x), *self.weights))))


LAYERS = 8 * IN + IN * OUT + OUT * 2
BY_TORCH = {
    "tensordot": (lambda h, w: torch.tensordot(h, w, dims=1), (IN, IN)),
    "inner": (torch.inner, (IN, IN)),
    "several": (lambda h, v, w: torch.linalg.multi_dot([h, v, w]), (IN, 4), (4, IN)),
    "complex": (lambda h, w: torch.tensordot(h.cfloat(), w.cfloat(), dims=1).real, (IN, IN)),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_TORCH)
def test_an_op_that_pytorch_counts_costs_the_same_for_any_choice_of_units(name):
    op, *shapes = BY_TORCH[name]
    model, x = Net(op, *shapes).eval(), torch.randn(6, 8)
    graph = trace(model, (x,))
    assert [(group.name, group.n_units) for group in graph.groups] == [("second", OUT)]
    assert cost(graph).macs == counted(model, x)[0] > LAYERS
    assert graph.uncounted == ()
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(1), share)
        assert cost(graph, keep).macs == counted(sliced(model, graph, keep), x)[0]


BY_FORMULA = {
    "bilinear": (IN * IN * IN, lambda h, w: F.bilinear(h, h, w), (IN, IN, IN)),
    "cdist": (3 * IN, lambda h, w: F.pad(torch.cdist(h, w), (0, IN - 3)), (3, IN)),
    "conv_tbc": (3 * 4 * 2 * 4, lambda h, w: F.pad(torch.conv_tbc(
        h.view(len(h), 4, 4).transpose(0, 1).contiguous(), w, h.new_zeros(IN // 4), 0,
    ).transpose(0, 1).flatten(1), (0, 4)), (2, 4, IN // 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_FORMULA)
def test_an_op_that_pytorch_leaves_out_costs_what_it_multiplies(name):
    macs, op, *shapes = BY_FORMULA[name]
    graph = trace(Net(op, *shapes).eval(), (torch.randn(6, 8),))
    assert cost(graph).macs == LAYERS + macs
    keep = {0: np.arange(OUT) < 2}
    assert cost(graph, keep).macs == 8 * IN + IN * 2 + 2 * 2 + macs


def test_budgets_count_what_cannot_be_pruned():
    model = Net(lambda h, w: F.bilinear(h, h, w), (IN, IN, IN)).eval()
    plan = mipp.plan(model, [torch.randn(32, 8)], budget="macs=98.5%", noise=0.1)
    assert plan.before.macs == LAYERS + IN**3
    assert plan.after.macs <= 0.985 * plan.before.macs
    assert plan.after.units == 2  # each of the four that go saves 16 + 2 of 4332


@pytest.mark.parametrize("name", ["fft", "solve", "own"])
def test_what_nobody_can_count_is_listed_with_its_line(name, doubled):
    op = {
        "fft": lambda h, w: h + torch.fft.rfft(h).real.sum(-1, keepdim=True) * w[0, 0],
        "solve": lambda h, w: torch.linalg.solve(w, h.mT).mT,
        "own": lambda h, w: doubled(h) * w[0],
    }[name]
    model, x = Net(op, (IN, IN)).eval(), torch.randn(32, 8)
    graph = trace(model, (x,))
    ((listed),) = graph.uncounted
    called = {"fft": "aten.fft_rfft", "solve": "aten.linalg_solve", "own": "mipp_tests::doubled"}
    assert listed.startswith(f"{called[name]} at ")
    assert "test_fixed_cost.py:" in listed
    assert cost(graph).macs == LAYERS
    plan = mipp.plan(model, [x], budget="units=50%", noise=0.1)
    assert f"not counted in MACs: {listed}" in str(plan).splitlines()
    assert mipp.Plan.from_json(plan.to_json()).record.uncounted == (listed,)


@pytest.fixture(scope="module")
def doubled():
    @torch.library.custom_op("mipp_tests::doubled", mutates_args=())
    def op(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    op.register_fake(torch.empty_like)
    return op


def test_an_op_in_a_loop_is_listed_once():
    class Loop(Net):
        def forward(self, x):
            for _ in range(3):
                x = x + torch.fft.fft(x).real
            return super().forward(x)

    graph = trace(Loop(lambda h: h).eval(), (torch.randn(6, 8),))
    assert len(graph.uncounted) == 1


def test_a_plan_that_counts_everything_says_nothing_of_it():
    model = Net(lambda h: h).eval()
    plan = mipp.plan(model, [torch.randn(32, 8)], budget="units=50%", noise=0.1)
    assert "not counted" not in str(plan)
    assert "uncounted" not in plan.to_json()


def test_an_op_of_your_own_counts_by_the_formula_that_is_registered_for_it():
    from torch.utils.flop_counter import register_flop_formula

    @torch.library.custom_op("mipp_tests::mixed", mutates_args=())
    def op(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight

    op.register_fake(lambda x, weight: x.new_empty(x.shape[0], weight.shape[1]))

    @register_flop_formula(torch.ops.mipp_tests.mixed)
    def flops(x, weight, out_shape=None, **kwargs):
        return 2 * x[0] * weight[0] * weight[1]

    graph = trace(Net(op, (IN, IN)).eval(), (torch.randn(6, 8),))
    assert cost(graph).macs == LAYERS + IN * IN
    assert graph.uncounted == ()


def test_a_product_without_a_sum_counts_nothing_as_with_pytorch():
    model = Net(lambda h: torch.einsum("bi,bj->bij", h, h).sum(-1)).eval()
    x = torch.randn(6, 8)
    assert cost(trace(model, (x,))).macs == counted(model, x)[0] == LAYERS


DEFORM = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, "
    "SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor"
)


@pytest.fixture
def deform():
    """The op of torchvision; where that is not installed, one of its name that has shapes alone."""
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        yield torch.ops.torchvision.deform_conv2d
        return
    with torch.library._scoped_library("torchvision", "FRAGMENT") as library:
        library.define(DEFORM)
        library.impl("deform_conv2d", lambda x, w, *_: x[:, :1].expand(-1, len(w), -1, -1) * 1,
                     "Meta")  # fmt: skip
        yield torch.ops.torchvision.deform_conv2d


def test_deformable_convolutions_count_as_convolutions(deform):
    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shift = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 18, 3, padding=1)
            self.weight, self.bias = nn.Parameter(torch.randn(6, 4, 3, 3)), torch.zeros(6)
            self.second, self.out = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            mask, groups = x[:, :1] * 0, 2
            y = deform(self.first(x), self.weight, self.shift(x), mask, self.bias,
                       1, 1, 1, 1, 1, 1, groups, 1, False)  # fmt: skip
            return self.out(F.relu(self.second(y)))

    graph = trace(Deformed().eval(), (torch.randn(2, 3, 5, 5),))
    assert cost(graph).macs == 25 * (3 * 8 + 3 * 18 * 9 + 6 * 4 * 9 + 6 * 5 + 5 * 2)
    assert CostModel(graph).saving(0, 0).macs == 25 * (6 + 2)
    assert graph.uncounted == ()
