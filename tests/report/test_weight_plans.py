"""The page of a plan of single weights."""

import pytest
import torch

import mipp
from mipp.report import Measured, weights_page
from tests.weights.nets import Mixed, images, mlp, vectors

from .reading import Page, titles

pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def plan():
    return mipp.plan(mlp(), vectors(), "params=40%", granularity="weight", noise=0.1)


def test_a_plan_keeps_the_nats_of_each_layer_from_none_to_all_with_the_cut_on_them(plan):
    assert [trail.group for trail in plan.record.trails] == [row.name for row in plan.summary]
    for trail, row in zip(plan.record.trails, plan.summary, strict=True):
        assert (trail.removed[0], trail.removed[-1]) == (0, row.weights_before)
        assert trail.values[-1] == pytest.approx(row.nats_before, rel=1e-4)
        assert list(trail.values) == sorted(trail.values)
        gone = row.weights_before - row.weights_after
        near = torch.tensor(trail.removed).sub(gone).abs().argmin()
        lost = row.nats_before - row.nats_after
        assert trail.values[near] == pytest.approx(lost, rel=0.2)


def test_trails_survive_the_file_and_files_without_them_are_read(plan):
    again = mipp.WeightPlan.from_json(plan.to_json())
    assert again.record.trails == plan.record.trails
    bare = mipp.plan(mlp(), vectors(), "params=40%", granularity="weight", method="l2")
    assert bare.record.trails == ()
    assert "trails" not in bare.to_json()
    assert mipp.WeightPlan.from_json(bare.to_json()).to_json() == bare.to_json()
    assert "measures no information" in weights_page(bare.record)


def test_the_page_has_densities_and_curves_with_their_cuts(plan):
    page = Page(weights_page(plan.record))
    shares = page.series(0)["weights kept"]
    assert list(shares) == ["0.weight", "2.weight"]
    for row in plan.summary:
        assert shares[row.name] == pytest.approx(row.weights_after / row.weights_before, rel=1e-5)
        view = next(v for v in page.figures[1]["views"] if v["choice"] == [row.name])
        assert view["cuts"][0]["x"] == row.weights_before - row.weights_after
    first = page.figures[1]["views"][0]
    assert first["choice"] == ["all layers"]
    assert len(first["series"]) == 2 * len(plan.summary)


def test_the_page_has_what_was_measured_the_options_and_what_is_refused(tmp_path):
    plan = mipp.plan(Mixed(), images(128), granularity="2:4", noise=0.1)
    html = weights_page(
        plan.record, measured=Measured((0.991, 0.985), 0.99, None, "mipp prune --x", "digits")
    )
    text = Page(html).text
    for words in ("99.10 % \u2192 98.50 %", "99.00 %", "mipp prune --x", "no multiple of", "2:4"):
        assert words in text
    plan.report(tmp_path / "plan.html")
    html = (tmp_path / "plan.html").read_text("utf-8")
    assert titles(html) == ["Density", "Nats lost with the weights"]
