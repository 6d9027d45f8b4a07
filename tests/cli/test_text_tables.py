"""Tables for people."""

import math

import pytest
import torch

import mipp
from mipp.cli import text_tables
from mipp.cli.output import open_output


@pytest.mark.parametrize(("method", "measured"), [("mipp", True), ("l2", False)])
def test_information_is_a_column_only_where_the_method_measures_any(method, measured):
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    plan = mipp.plan(model, [torch.randn(40, 3)], "units=50%", method=method)
    table = text_tables.groups_after(plan.summary)
    assert ("information" in [column.header for column in table.columns]) == measured
    assert ("information" in str(table.caption)) == measured
    assert table.row_count == 1


def test_shares():
    assert text_tables.share(4, 1) == 0.25
    assert text_tables.share(0, 0) == 1
    assert text_tables.share(math.nan, math.nan) is None
    assert text_tables.percent(0.987) == "98.7 %"
    assert text_tables.percent(None) == "–"


def test_brackets_and_ratios_are_printed_as_they_are(capsys):
    output = open_output(False)
    made = text_tables.new_table("classes 1:100: of [net]")
    made.add_row("layers[0] at 1:100:")
    output.show(made)
    output.say("[net] with classes 1:100: done")
    shown = capsys.readouterr().out
    for words in (
        "classes 1:100: of [net]",
        "layers[0] at 1:100:",
        "[net] with classes 1:100: done",
    ):
        assert words in shown
