"""Refusals put together by reason, with what helps."""

import pytest
import torch
from torch import nn

import mipp
from mipp import refusals
from mipp.records import Refusal

NORM = "all 8 channels are tied into one unit by layer_norm (aten.layer_norm at net.py:{} `x`)"


def test_one_reason_is_one_line_with_all_names():
    refused = [
        Refusal("stem", 8, NORM.format(3)),
        Refusal("blocks.0.fc", 8, NORM.format(3)),
        Refusal("head", 2, "it is part of the model's output"),
        Refusal("blocks.11.fc", 8, NORM.format(5)),
        Refusal("blocks.0.fc", 1, NORM.format(3)),
    ]
    first, second = refusals.by_reason(refused)
    assert first.names == ("stem", "blocks.0.fc", "blocks.11.fc")
    assert first.n_units == 25
    assert first.listed() == ["stem", "blocks.*.fc (2)"]
    assert first.whole_reason == (
        "all 8 channels are tied into one unit by layer_norm "
        "(aten.layer_norm at net.py:3 `x`, and 1 other place)"
    )
    assert "residual=True" in first.remedy
    assert second.remedy == ""
    lines = refusals.in_lines(refused, "units")
    assert lines[1] == "refused: head (2 units): it is part of the model's output"
    assert lines[0].startswith("refused: stem, blocks.*.fc (2) (25 units): all 8 channels")
    assert "; what helps: residual=True" in lines[0]


def test_names_that_are_numbers_are_listed_one_by_one():
    assert refusals.patterns(["0", "2.1", "a.0", "a.1"]) == ["0", "2.1", "a.* (2)"]


@pytest.mark.parametrize(
    ("reason", "helps"),
    [
        ("mipp has no rule for aten.fft (net.py:3)", "add a rule"),
        ("it takes channels by their place (aten.select at net.py:4 `x[:, 0]`)", "use chunk"),
        ("it takes one number over all channels (aten.mean at a.py:1 `x.pow(2).mean(-1)`)",
         "residual=True"),
        ("it takes one number over all channels (aten.mean at a.py:1 `a - a.mean(1)`)", ""),
    ],
)  # fmt: skip
def test_what_helps(reason, helps):
    found = refusals.remedy(reason)
    assert helps in found
    assert bool(helps) == bool(found)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def test_the_remedy_of_a_transformer_helps():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), Block(), Block(), nn.Linear(8, 2))
    batches = [torch.randn(64, 5)]
    plan = mipp.plan(net, batches, "units=50%")
    first, head = refusals.by_reason(plan.refused)
    assert first.names == ("0", "1.down", "2.down")
    assert "residual=True" in first.remedy
    assert str(plan).count("refused:") == 2
    helped = mipp.plan(net, batches, "units=50%", residual=True)
    assert {each.name for each in helped.refused} == set(head.names)
