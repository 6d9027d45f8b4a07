"""``mipp prune --report``."""

import json

import pytest
from typer.testing import CliRunner

from mipp.cli import app
from mipp.report import page

from .reading import Page, titles

pytestmark = pytest.mark.usefixtures("light")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_prune_writes_a_page_with_what_it_measured(tmp_path):
    out = tmp_path / "small.html"
    done = run("prune", "--model", "digits_cnn", "--width", "0.25", "--budget", "macs=50%",
               "--samples", "128", "--report", out, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    html = out.read_text("utf-8")
    assert titles(html) == [
        "The net, from inputs to outputs", "Information against cost", "Nats lost with the units"
    ]  # fmt: skip
    assert "<title>digits_cnn pruned to macs=50%</title>" in html
    shown = Page(html)
    (views,) = [figure["views"] for figure in shown.figures[:1]]
    others = next(view for view in views if view["choice"] == ["macs"])["series"][0]["x"]
    assert len(others) > 3
    assert min(others) < 0.3
    assert max(others) > 0.6
    before, after = (100 * found["accuracy"][when] for when in ("before", "after"))
    assert f"{before:.2f} % → {after:.2f} %" in shown.text
    assert "test split of digits" in shown.text
    groups = {row[0]: row for row in shown.tables[0]}
    for group in found["groups"]:
        units = [f"{group['units'][when]}" for when in ("before", "after")]
        assert groups[group["name"]][1:3] == units


def test_prune_tells_at_once_what_would_stop_its_report(tmp_path, monkeypatch):
    start = ("prune", "--model", "digits_cnn", "--budget", "macs=50%", "--report")
    assert "expected a name that ends in .html" in run(*start, tmp_path / "a.pdf").output
    assert "there is no folder" in run(*start, tmp_path / "none" / "a.html").output
    monkeypatch.setattr(page, "find_spec", lambda _: None)
    done = run(*start, tmp_path / "a.html")
    assert done.exit_code == 1
    assert "pip install -e '.[report]'" in done.output
