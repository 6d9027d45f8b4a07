"""The page of one plan, and the few points of its curves that a plan keeps."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp.errors import FileError, InputError
from mipp.records import ChannelGraph, Curve, Group, Refusal
from mipp.report import Measured, plan_page
from mipp.selection.curve_points import POINTS, NatsTrails, ScoreTrails

from .reading import Page, titles

pytestmark = pytest.mark.usefixtures("light")


def net(width=12):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def batches():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 6, generator=generator)
    return [(x, x[:, :3].argmax(1))]


@pytest.fixture(scope="module")
def plan():
    return mipp.plan(net(), batches(), "units=50%")


def curve(lost):
    lost = np.array(lost, dtype=float)
    order = np.arange(len(lost) - 1)
    return Curve(order, lost, float(lost[-1]), lost[:, None], lost[-1:])


def test_a_plan_keeps_a_trail_of_each_group_that_ends_where_all_is_lost(plan):
    assert {trail.group for trail in plan.record.trails} == set(plan.keep)
    for trail, row in zip(plan.record.trails, plan.summary, strict=True):
        assert trail.group == row.name
        assert trail.measure == "nats"
        assert trail.removed == tuple(range(row.units_before + 1))
        assert trail.values[0] == 0
        assert trail.values[-1] == pytest.approx(row.nats_before, rel=1e-4)
        gone = row.units_before - row.units_after
        lost = row.nats_before - row.nats_after
        assert trail.values[gone] == pytest.approx(lost, rel=1e-3, abs=1e-6)


def test_trails_of_wide_groups_are_few_points_with_the_cut_among_them():
    keep = np.ones(5000, dtype=bool)
    keep[:3217] = False
    trails = NatsTrails()
    trails.follow("wide", curve(np.linspace(0, 1, 5001) ** 20), keep)
    (trail,) = trails.trails()
    assert len(trail.removed) <= 2 * POINTS + 2
    assert {0, 3217, 5000} <= set(trail.removed)
    # the steep end, where evenly spaced units would leave gaps, is drawn as well
    steps = np.diff(trail.values)
    assert steps.max() < 1.5 / (POINTS - 1)


def test_rounds_continue_each_other():
    trails = NatsTrails()
    trails.follow("g", curve([0, 1, 3, 6]), np.array([True, False, True]))
    trails.follow("g", curve([0, 4, 9]), np.array([False, True]))
    (trail,) = trails.trails()
    assert trail.removed == (0, 1, 2, 3)
    assert trail.values == (0, 1, 5, 10)


def test_rounds_of_a_plan_end_where_its_record_says():
    plan = mipp.plan(net(), batches(), "units=40%", rounds=3)
    for trail, row in zip(plan.record.trails, plan.summary, strict=True):
        gone = row.units_before - row.units_after
        lost = dict(zip(trail.removed, trail.values, strict=True))[gone]
        if row.nats_after > 0:
            assert lost == pytest.approx(row.nats_before - row.nats_after, rel=1e-3, abs=1e-6)


def test_scores_are_kept_in_the_order_in_which_units_go():
    trails, whole = ScoreTrails(), {0: np.ones(4, dtype=bool)}
    after = {0: np.array([True, False, True, False])}
    trails.follow({0: np.array([7.0, 2.0, 9.0, 1.0])}, whole, after)
    last = {0: np.array([False, False, True, False])}
    trails.follow({0: np.array([30.0, 0.0, 40.0, 0.0])}, after, last)

    graph = ChannelGraph((Group(0, "g", 4, (), ()),), (), {}, (), {}, ())
    (trail,) = trails.trails(graph)
    assert trail.measure == "score"
    assert trail.removed == (1, 2, 3, 4)
    assert trail.values == (1, 2, 30, 40)


def test_the_page_names_what_is_not_counted(plan):
    assert "Not counted" not in Page(plan_page(plan.record)).text
    op = "aten.fft_rfft at net.py:7 `f = rfft(x < 1)`"
    page = Page(plan_page(replace(plan.record, uncounted=(op,))))
    assert f"Not counted in multiply-accumulates: {op}." in page.text


@pytest.mark.parametrize("method", ["l2", "synflow", "snip"])
def test_a_plan_of_another_method_has_scores(method):
    made = mipp.plan(net(), batches(), "units=50%", method=method)
    assert {trail.measure for trail in made.record.trails} == {"score"}
    assert all(len(t.values) == r.units_before for t, r in
               zip(made.record.trails, made.summary, strict=True))  # fmt: skip
    html = plan_page(made.record)
    assert "Scores of the units" in titles(html)
    assert Page(html).figures[0]["views"][0]["cuts"]


def test_trails_survive_the_file_and_files_without_them_are_read(plan):
    again = mipp.Plan.from_json(plan.to_json())
    assert again.record.trails == plan.record.trails
    content = json.loads(plan.to_json())
    del content["trails"], content["digest"]
    old = mipp.Plan.from_json(json.dumps(content))
    assert old.record.trails == ()
    assert "older file" in plan_page(old.record)


def test_the_page_has_curves_with_the_cut_and_the_widths(plan):
    html = plan_page(plan.record)
    page = Page(html)
    drawn = re.findall(r'title="(\w+): (\d+) of (\d+) units stay', html)
    assert [(name, int(after), int(before)) for name, after, before in drawn] == [
        (row.name, row.units_after, row.units_before) for row in reversed(plan.summary)
    ]  # from inputs to outputs
    for row in plan.summary:
        share = f'class="left" style="width:{100 * row.units_after / row.units_before:.2f}%'
        assert share in html
        view = next(v for v in page.figures[0]["views"] if v["choice"] == [row.name])
        assert view["cuts"][0]["x"] == row.units_before - row.units_after
        assert view["cuts"][0]["name"] == f"cut: {row.units_before} → {row.units_after}"
        # nats on a log scale, on which nothing lost stands at the foot
        assert view["y"]["kind"] == "log"
        heights = view["series"][0]["y"]
        assert min(heights) == pytest.approx(max(heights) * 1e-5, rel=1e-4)
    first = page.figures[0]["views"][0]
    assert first["choice"] == ["all groups"]
    assert len(first["series"]) == 2 * len(plan.summary)  # a curve and its cut


def test_of_many_groups_those_are_drawn_together_that_lose_most():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6), *(part for _ in range(11) for part in (nn.ReLU(), nn.Linear(6, 6)))]
    record = mipp.plan(nn.Sequential(*layers), batches(), "units=50%").record
    rows = {row.name: row for row in record.summary}
    (curves,) = Page(plan_page(record)).figures
    first, *alone = curves["views"]
    assert len(rows) == len(alone) == 11
    assert first["choice"] == ["the 8 that lose most"]
    shown = {series["label"] for series in first["series"]}
    lost = {name: 1 - row.nats_after / row.nats_before for name, row in rows.items()}
    assert len(shown) == 8
    assert (
        min(lost[name] for name in shown) >= max(lost[name] for name in rows.keys() - shown) - 1e-6
    )


def test_the_title_has_the_model_and_the_budget_and_the_page_its_date(plan):
    html = plan_page(plan.record, name="LeNet")
    assert "<title>LeNet pruned to units=50%</title>" in html
    assert str(datetime.now(UTC).year) in Page(html).text
    assert "<title>Mine</title>" in plan_page(plan.record, title="Mine", name="LeNet")


def test_another_metric_than_accuracy_is_shown_by_its_name(plan):
    text = Page(plan_page(plan.record, measured=Measured(other=("perplexity", (18.25, 19.5))))).text
    assert "perplexity" in text
    assert "18.25 → 19.5" in text
    assert "accuracy" not in text.partition("How it was made")[0].replace("no accuracy", "")


def test_other_budgets_are_a_frontier(plan):
    assert "Information against cost" not in plan_page(plan.record)
    budgets = ["units=80%", "units=30%"]
    others = [made.record for made in mipp.plans(net(), batches(), budgets)]
    page = Page(plan_page(plan.record, others=others))
    figure = page.figures[0]
    assert [view["choice"] for view in figure["views"]] == [["macs"], ["params"]]
    line, mark = figure["views"][0]["series"]
    assert line["x"] == sorted(line["x"])
    assert len(line["x"]) == 3
    assert line["y"] == sorted(line["y"])  # the more may stay, the more is kept
    assert mark["x"] == [pytest.approx(plan.after.macs / plan.before.macs, rel=1e-4)]
    table = next(table for table in page.tables if table[0][0] == "budget")
    assert [row[0] for row in table[1:]] == ["units=30%", "units=50%", "units=80%"]


def test_the_page_has_costs_refusals_options_and_versions(plan):
    record = plan.record
    refused = mipp.Plan.from_json(plan.to_json()).record
    html = plan_page(
        type(record)(**{**refused.__dict__, "refused": (Refusal("stem", 64, "why"),)}),
        seconds={"capture": 0.25},
        versions={"torch": "9.9"},
        measured=Measured((0.991, 0.985), 0.99, (1.5, 0.75), "mipp prune --x", "digits"),
    )
    page = Page(html)
    for words in ("99.10 % → 98.50 %", "99.00 %", "1.5 → 0.75", "mipp prune --x", "digits",
                  "capture 0.25", "torch 9.9", "stem", "units=50%"):  # fmt: skip
        assert words in page.text
    assert ["budget", "units=50%"] in page.tables[-1]
    assert ["stem", "64", "why", "–"] in page.tables[-2]


def test_a_plan_writes_its_own_page(plan, tmp_path):
    plan.report(tmp_path / "plan.html")
    html = (tmp_path / "plan.html").read_text("utf-8")
    assert titles(html) == ["The net, from inputs to outputs", "Nats lost with the units"]
    assert "<title>Sequential pruned to units=50%</title>" in html
    assert f"torch {torch.__version__}" in html
    with pytest.raises(FileError, match="cannot be written"):
        plan.report(tmp_path / "none" / "plan.html")
    plan.report(tmp_path / "plan.htm")
    with pytest.raises(InputError, match=r"plan.pdf: .*ends in .html or .htm. Give such a name"):
        plan.report(tmp_path / "plan.pdf")
    assert not (tmp_path / "plan.pdf").exists()


def test_plotly_is_asked_for_before_long_work(monkeypatch):
    from mipp.report import page

    monkeypatch.setattr(page, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install"):
        page.check_plotly()
