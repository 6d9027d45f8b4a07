"""A plan as figures, as a table of pandas, and in a notebook."""

import math
import re
import sys

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import InputError
from tests.report.reading import Page


def made(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    return mipp.plan(net, [torch.randn(256, 6)], **options)


@pytest.fixture(scope="module")
def plan():
    return made(budget="macs=50%")


@pytest.fixture(scope="module")
def weights():
    return made(budget="params=50%", granularity="weight")


def test_widths(plan):
    assert plan.widths == {"2": (8, len(plan.keep["2"])), "0": (12, len(plan.keep["0"]))}


def test_metrics_are_the_figures_of_the_plan(plan, weights):
    found = plan.metrics()
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
    assert found["macs/before"] == 6 * 12 + 12 * 8 + 8 * 3
    assert found["macs/left"] == plan.after.macs / plan.before.macs
    assert found["width/0"] == len(plan.keep["0"])
    assert found["kept/0"] == len(plan.keep["0"]) / 12
    nats = [(row.nats_before, row.nats_after) for row in plan.summary]
    assert found["information/left"] == sum(n[1] for n in nats) / sum(n[0] for n in nats)
    assert found["information/2"] == nats[0][1] / nats[0][0]
    assert "latency_ms/before" not in found
    assert not any(name.startswith("information") for name in made(
        budget="macs=50%", method="l2").metrics())  # fmt: skip
    single = weights.metrics()
    assert single["weights/after"] == weights.after.weights
    assert single["density/0.weight"] == int(weights.masks["0.weight"].sum()) / 72


def test_a_table_of_pandas(plan, weights):
    pytest.importorskip("pandas", reason="pandas is not installed")
    table = plan.to_dataframe()
    assert list(table.index) == ["2", "0"]
    assert table.loc["0", "units_before"] == 12
    assert table["units_after"].to_dict() == {
        name: after for name, (_, after) in plan.widths.items()
    }
    assert weights.to_dataframe()["weights_after"].sum() == weights.after.weights


def test_without_pandas_it_is_said(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="to_dataframe needs the package pandas"):
        plan.to_dataframe()


def test_a_notebook_shows_cost_groups_and_refusals(plan, weights):
    html = plan._repr_html_()
    page = Page(html)
    for words in ("method mipp, budget macs=50%", "parameters", "12 → ", "information",
                  "not pruned: 1 group, 1 reason", "it is part of the model's output"):  # fmt: skip
        assert words in page.text
    # no colours of its own that one of the grounds would swallow
    assert "color:inherit" in html
    assert not re.search(r"(?<!-)color:#", html)
    assert "<script" not in html
    other = Page(weights._repr_html_()).text
    for words in ("Plan of single weights (weight)", "weights that are not zero", "0.weight"):
        assert words in other


def test_names_are_no_html(plan):
    net = nn.ModuleDict({"<b>": nn.Linear(4, 8), "out": nn.Linear(8, 2)})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = net

        def forward(self, x):
            return self.parts["out"](self.parts["<b>"](x))

    html = mipp.plan(Net(), [torch.randn(64, 4)], "units=50%")._repr_html_()
    assert "parts.&lt;b&gt;" in html
    assert "parts.<b>" not in html
