"""The registry of rules, and how a new one is added."""

import pytest
import torch
from torch import nn

from mipp.graph import trace
from mipp.graph.rules import rule as registry
from mipp.graph.rules.rule import find_rule, op_name, rule

from .checks import groups, refusals


@pytest.fixture
def rules(monkeypatch):
    """A copy of the registry that a test may add to."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


@torch.library.custom_op("mipp_tests::reverse", mutates_args=())
def reverse(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1).clone()


@reverse.register_fake
def _(x):
    return torch.empty_like(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.b(reverse(self.a(x))))


def test_a_rule_for_an_op_of_ones_own(rules):
    graph = trace(Net(), (torch.randn(2, 3),))
    assert refusals(graph)["a"][0][1].startswith(
        "mipp has no rule for mipp_tests.reverse.default (mipp_tests::reverse at tests/graph/"
    )

    @rule("mipp_tests::reverse")
    def reversed_channels(call):
        x = call.first
        labels = x.labels[-1]
        return call.out([*x.labels[:-1], None if labels is None else labels[::-1]])

    graph = trace(Net(), (torch.randn(2, 3),))
    assert groups(graph)["a"] == (4, ["a.weight.0"], ["b"])
    (axis,) = (axis for key, axis in graph.axes.items() if (key.tensor, key.dim) == ("b.weight", 1))
    assert axis.unit.tolist() == [3, 2, 1, 0]


def test_two_rules_for_one_op_are_refused(rules):
    with pytest.raises(ValueError, match="two rules for relu_twice"):
        rule("relu_twice", "relu_twice")(lambda call: None)


def test_a_rule_that_makes_labels_of_a_wrong_shape_is_told(rules):
    @rule("mipp_tests::reverse")
    def wrong(call):
        return call.out([None, call.first.labels[-1][:2]])

    with pytest.raises(
        ValueError, match=r"mipp_tests::reverse at .*: labels of shape \(2,\) for a"
    ):
        trace(Net(), (torch.randn(2, 3),))


def test_every_name_is_that_of_an_op():
    missing = [
        name
        for name in registry._RULES
        if name != "pointwise"
        and not hasattr(torch.ops.aten, name)
        and not hasattr(torch.ops.aten, f"{name}_")
    ]
    assert missing == []


def test_in_place_and_other_overloads_share_a_rule():
    aten = torch.ops.aten
    assert op_name(aten.relu_.default) == op_name(aten.relu.default) == "relu"
    assert op_name(aten.__and__.Tensor) == "__and__"
    assert find_rule(aten.add_.Tensor) is find_rule(aten.gelu.default)
    assert find_rule(aten.kthvalue.default) is None
