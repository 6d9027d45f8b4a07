"""Groups taken out of a graph stay as they are, and are listed with the reason."""

import torch
from torch import nn

from mipp.graph import CostModel, trace
from mipp.prunable import without
from mipp.records import AxisKey


def test_what_is_left_is_numbered_anew_and_costs_the_same():
    model = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.Linear(7, 3)
    )
    graph = trace(model, (torch.randn(2, 4),))
    assert [group.name for group in graph.groups] == ["4", "2", "0"]
    left = without(graph, {1: "it breaks the model"})
    assert [(group.index, group.name) for group in left.groups] == [(0, "4"), (1, "0")]
    assert left.refused[-1].name == "2"
    assert left.refused[-1].reason == "it breaks the model"
    assert AxisKey("2.weight", 0) not in left.axes
    assert set(left.axes[AxisKey("0.weight", 0)].group) == {1}
    assert CostModel(left).cost().units == 12
    assert CostModel(left).cost().macs == CostModel(graph).cost().macs
    assert CostModel(left).saving(1, 0).macs == 4 + 6
