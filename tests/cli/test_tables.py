"""How numbers are written."""

import math

import pytest
import torch

import mipp
from mipp.cli import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (999.6, "1.00k"), (1000, "1.00k"), (9994, "9.99k"),
        (9996, "10.0k"), (99_960, "100k"), (431_080, "431k"), (999_600, "1.00M"),
        (2_293_000, "2.29M"), (4_089_184_256, "4.09G"), (1.5e12, "1.50T"),
    ],
)  # fmt: skip
def test_three_digits(value, text):
    assert tables.short(value) == text


@pytest.mark.parametrize(("method", "measured"), [("mipp", True), ("l2", False)])
def test_information_is_a_column_only_where_the_method_measures_any(method, measured):
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    plan = mipp.plan(model, [torch.randn(40, 3)], "units=50%", method=method)
    table = tables.groups_after(plan.summary)
    assert ("information" in [column.header for column in table.columns]) == measured
    assert ("information" in str(table.caption)) == measured
    assert table.row_count == 1


def test_shares():
    assert tables.share(4, 1) == 0.25
    assert tables.share(0, 0) == 1
    assert tables.share(math.nan, math.nan) is None
    assert tables.percent(0.987) == "98.7 %"
    assert tables.percent(None) == "–"
