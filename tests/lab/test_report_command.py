"""``python -m lab report``."""

import json

import pytest
from typer.testing import CliRunner

from lab import runner, suite_files
from lab.command import app
from tests.report.reading import Page

from . import made_up
from .small import tiny

pytestmark = pytest.mark.usefixtures("light")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path, records):
    path.write_text("".join(record.line() + "\n" for record in records), "utf-8")
    return path


def test_a_run_ends_with_its_report_when_asked(tmp_path):
    path, out = tmp_path / "tiny.toml", tmp_path / "tiny.html"
    path.write_text(tiny())
    start = ("run", path, "--out", tmp_path / "records", "--report")
    assert "expected a name that ends in .html" in run(*start, tmp_path / "a.pdf").output
    assert not (tmp_path / "records").exists()
    done = run(*start, out, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["report"] == {"path": str(out), "bytes": out.stat().st_size, "records": 2}
    assert "of 2 measurements" in done.stderr
    assert "mipp" in Page(out.read_text("utf-8")).text


def test_records_of_a_file_become_a_report(tmp_path):
    few = made_up.accuracies(made_up.FEW[:2], ("trained",), seeds=2, budgets=made_up.UNITS[:2])
    path, out = write(tmp_path / "mine.jsonl", few), tmp_path / "mine.html"
    done = run("report", path, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    size = out.stat().st_size
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "path": str(out), "bytes": size, "records": len(few),
    }  # fmt: skip
    assert Page(out.read_text("utf-8")).tables


def test_a_suite_brings_its_title_and_says_that_it_is_unfinished(tmp_path):
    items = suite_files.items(suite_files.load("cost"))
    some = made_up.costs(made_up.FEW[:1])[0]
    mine = [some.model_copy(update={"item": item, "id": item.id, "suite": "cost"})
            for item in items[:3]]  # fmt: skip
    write(tmp_path / "cost.jsonl", [*mine, some])
    out = tmp_path / "report.html"
    done = run("report", "cost", "--records", tmp_path, "--out", out)
    assert done.exit_code == 0, done.output
    assert "report of 3 measurements" in done.output  # the fourth is none of the suite's items
    text = Page(out.read_text("utf-8")).text
    assert suite_files.load("cost").title in text
    assert f"Unfinished: 3 of {len(runner.with_parents(items))} items" in text


def test_what_cannot_be_reported_is_told(tmp_path):
    out = tmp_path / "report.html"
    assert "there are no records" in run("report", "no.jsonl", "--out", out).output
    none = run("report", "cost", "--records", tmp_path, "--out", out)
    assert none.exit_code == 1
    assert "suite cost has no records" in none.output
    assert "name that ends in .html" in run("report", "cost", "--out", "x.txt").output
