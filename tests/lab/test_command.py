"""``python -m lab``: list, run, show, and the example of the documents."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import runner, suite_files
from lab.command import app
from tests.lab.small import tiny

DOCUMENT = Path(__file__).parents[2] / "docs" / "research" / "lab.md"


@pytest.fixture
def lab(monkeypatch):
    """Runs ``python -m lab`` with arguments; the result has exit_code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def last_line(result):
    assert result.stdout, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny(seeds=(0, 1)))
    return path


def test_a_suite_is_run_in_parts_and_shown(lab, suite, tmp_path):
    out = ("--out", tmp_path / "out")
    nothing = lab("show", suite, *out)
    assert "Nothing is measured yet. Run: python -m lab run" in nothing.stdout
    first = lab("run", suite, *out, "--seeds", "0", "--json")
    assert last_line(first)["done"] == 2
    assert "layers, digits_cnn-w0.25/digits, init, seed 0, mipp, units=50%" in first.stderr
    second = lab("run", suite, *out)
    assert "2 items to do" in second.stdout
    assert "2 measured" in second.stdout
    shown = last_line(lab("show", suite, *out, "--json"))
    assert (shown["done"], shown["items"]) == (4, 4)
    cell = shown["tables"][0]["rows"][0]["cells"][0]
    assert cell["n"] == 2
    markdown = lab("show", suite, *out, "--markdown").stdout
    assert "| mipp |" in markdown
    assert f"n = {cell['n']})" in markdown


def test_half_a_record_is_told_before_the_run_goes_on(lab, suite, tmp_path):
    lab("run", suite, "--out", tmp_path, "--limit", 2)
    path = tmp_path / "tiny.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    again = lab("run", suite, "--out", tmp_path, "--limit", 1)
    assert "is cut off: a run was killed while it wrote" in " ".join(again.stdout.split())
    assert path.read_bytes().count(b"\n") == 2


def test_what_fails_is_told_and_the_exit_code_says_so(lab, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny(budgets=("units=0.1%",)))
    result = lab("run", path, "--out", tmp_path)
    assert result.exit_code == 1
    assert "digits, init, seed 0, mipp, units=0.1%: The budget" in result.stdout


def test_wrong_use_is_told_in_one_message(lab, suite, tmp_path):
    for arguments, told in (
        (("run", "lenet"), "suite 'lenet' was given; expected one of"),
        (("run", suite, "--methods", "x"), "--methods x is nothing that tiny has"),
        (("run", suite, "--jobs", "2", "--dask", "tcp://x:1"), "--jobs 2 was given with --dask"),
    ):
        result = lab(*arguments)
        assert result.exit_code == (1 if "--dask" in arguments else 2)
        assert told in result.stderr


def test_the_list_says_how_far_each_suite_is(lab, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.suite_files.names", lambda: ["lenet5-mnist"])
    monkeypatch.setattr("lab.experiments.NAMES", ("quality",))
    suites = {
        row["name"]: row for row in last_line(lab("list", "-o", tmp_path, "--json"))["subjects"]
    }
    whole = runner.with_parents(suite_files.items(suite_files.load("lenet5-mnist")))
    assert suites["lenet5-mnist"]["items"] == len(whole) > 500
    assert suites["lenet5-mnist"]["done"] == 0
    assert suites["lenet5-mnist"]["seconds"] is None
    assert "unknown" in lab("list", "-o", tmp_path).stdout


def test_the_example_of_the_documents_is_a_suite_that_runs(lab, tmp_path):
    text = re.search(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
    suite = suite_files.read(text, "lab.md")
    assert suite.name == "my-suite"
    path = tmp_path / "my-suite.toml"
    path.write_text(text)
    command = ("run", path, "--out", tmp_path, "--smoke", "--stage", "trained", "--json")
    outcome = last_line(lab(*command))
    assert outcome["done"] == 3
    assert outcome["path"].endswith("my-suite-smoke.jsonl")


def test_the_document_names_every_suite_and_kind():
    text = DOCUMENT.read_text()
    for name in suite_files.names():
        assert f"`{name.removesuffix('-cpu')}`" in text, name
    from lab import kinds

    for name in kinds.names():
        assert f"| `{name}` |" in text, name
