"""Experiments: found by name, run, resumed and shown as suites are."""

import json

import pytest
from typer.testing import CliRunner

from lab import experiments, runner, subjects
from lab.command import app
from lab.experiment import Experiment
from lab.tables import TextTable
from mipp.errors import InputError
from tests.lab.small import tiny

TITLE = "Squares, to try the runner"


def squares(key, settings):
    if key["number"] == settings["bad"]:
        raise InputError("this number is bad.")
    return {"square": key["number"] ** 2}


@pytest.fixture(autouse=True)
def _with_squares(monkeypatch):
    made = Experiment(
        name="squares",
        title=TITLE,
        items=lambda settings: ({"number": n, "seed": n % 2} for n in range(settings["most"])),
        measure=squares,
        tables=lambda rows: [
            "Squares.",
            TextTable("all", ["n", "square"], [[str(r["number"]), str(r["square"])] for r in rows]),
        ],
        settings={"most": 4, "bad": 99},
    )
    real = experiments.get
    monkeypatch.setattr(experiments, "NAMES", (*experiments.NAMES, "squares"))
    monkeypatch.setattr(experiments, "get", lambda n: made if n == "squares" else real(n))


def lab(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def last_line(result):
    return json.loads(result.stdout.splitlines()[-1])


def rows(folder):
    return [json.loads(line) for line in (folder / "squares.jsonl").read_text().splitlines()]


def test_what_is_missing_is_measured_and_shown(tmp_path):
    out = ("--out", tmp_path)
    assert "Nothing is measured yet" in lab("show", "squares", *out).stdout
    assert last_line(lab("run", "squares", *out, "--limit", 3, "--json"))["done"] == 3
    assert last_line(lab("run", "squares", *out, "--json"))["done"] == 1
    assert [row["square"] for row in rows(tmp_path)] == [0, 1, 4, 9]
    assert {"id", "seconds_in_all", "mipp", "torch", "machine"} <= rows(tmp_path)[0].keys()
    shown = lab("show", "squares", *out, "--markdown").stdout
    assert "Squares." in shown
    assert "| 3 | 9 |" in shown
    assert "4 of 4 items are there" in shown
    assert last_line(lab("show", "squares", *out, "--json"))["tables"][0]["rows"][3] == ["3", "9"]


def test_a_part_is_chosen_by_the_key_or_a_setting(tmp_path):
    out = ("--out", tmp_path, "--json")
    assert last_line(lab("run", "squares", *out, "--seeds", "1"))["done"] == 2
    assert last_line(lab("run", "squares", *out, "--only", "number=[02]"))["done"] == 2
    assert last_line(lab("run", "squares", *out, "--set", "most=6"))["done"] == 2
    assert last_line(lab("run", "squares", *out, "--again", "--only", "seed=0"))["done"] == 2
    assert len(rows(tmp_path)) == 6


def test_what_fails_is_reported_and_the_others_go_on(tmp_path):
    done = lab("run", "squares", "--out", tmp_path, "--set", "bad=1")
    assert done.exit_code == 1
    assert "failed: number 1, seed 1: this number is bad." in done.stdout
    assert [row["number"] for row in rows(tmp_path)] == [0, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "squares", "--set", "least=1"), "--set least is no setting of squares"),
        (("run", "squares", "--set", "most=few"), "--set most=few: expected a value like 4"),
        (("run", "squares", "--only", "number"), "--only number: expected FIELD=PATTERN"),
        (("run", "squares", "--methods", "l2"), "--methods l2 is nothing that squares has"),
        (("run", "layers", "--again"), "--again was given with a suite"),
        (("run", "layers", "--set", "x=1"), "--set x was given; suites have no settings"),
        (("show", "squares", "--picture"), "--picture was given, and squares has none"),
        (("report", "squares"), "squares is an experiment; reports are drawn of suites"),
        (("show", "circles"), "'circles' was given; expected one of"),
    ],
)
def test_wrong_use_is_reported_in_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = () if arguments[0] == "report" else ("--out", tmp_path)
    done = lab(*arguments, *out)
    assert done.exit_code in (1, 2)
    assert message in done.stderr


@pytest.mark.parametrize("name", [n for n in experiments.NAMES if n != "squares"])
def test_items_of_experiments_are_plain_and_different(name):
    items = subjects.load(name).items
    assert items
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert json.loads(json.dumps(item.content())) == item.content()


def test_settings_and_choices_do_not_change_what_an_item_is():
    wide = subjects.load("squares", settings={"most": "9"})
    narrow = subjects.load("squares")
    assert {item.id for item in narrow.items} < {item.id for item in wide.items}
    chosen = runner.Choice(seeds=(0,)).of("squares", narrow.items)
    assert [item.key["number"] for item in chosen] == [0, 2]


def test_several_subjects_are_run_one_after_the_other(tmp_path, monkeypatch):
    suite = tmp_path / "tiny.toml"
    suite.write_text(tiny(seeds=(0,)))
    done = last_line(lab("run", "squares", suite, "--out", tmp_path, "--limit", 1, "--json"))
    assert [part["name"] for part in done["subjects"]] == ["squares", "tiny"]
    assert [part["done"] for part in done["subjects"]] == [1, 1]
    assert len(rows(tmp_path)) == 1
    assert (tmp_path / "tiny.jsonl").exists()


def test_a_dash_stands_for_the_underscore_of_a_module():
    assert subjects.load("full-width").name == "full_width"
