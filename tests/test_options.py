"""One schema of options: what is said of them elsewhere is made from it."""

import ast
import importlib.util
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import mipp
from mipp import options
from mipp.checks import fits
from mipp.options import (
    BlockKeywords,
    BlockOptions,
    Options,
    UnitKeywords,
    WeightKeywords,
    WeightOptions,
    types_of,
)
from mipp.planning.plan_record import to_dict

SCRIPT = Path(__file__).parents[1] / "scripts" / "write_options.py"
RECORDS = [
    (Options, UnitKeywords), (WeightOptions, WeightKeywords), (BlockOptions, BlockKeywords)
]  # fmt: skip


def keywords_of(kind):
    types_of(Options)  # imports what the annotations name
    return get_type_hints(kind, vars(options))


def default_of(one):
    return one.default if one.default is not MISSING else one.default_factory()


def words_of(hint):
    inner = get_args(hint)
    return {hint} if isinstance(hint, str) else {word for one in inner for word in words_of(one)}


@pytest.mark.parametrize(("record", "keywords"), RECORDS, ids=["units", "weights", "blocks"])
def test_the_keywords_that_are_type_checked_are_the_options(record, keywords):
    short = {"noise", "confidence"} if record is Options else set()
    known = {one.name for one in fields(record)} - {"granularity"} | short
    assert set(keywords_of(keywords)) == known


@pytest.mark.parametrize(("record", "keywords"), RECORDS, ids=["units", "weights", "blocks"])
def test_every_default_may_be_written_as_a_keyword(record, keywords):
    hints = keywords_of(keywords)
    for one in fields(record):
        if one.name != "granularity":
            assert fits(default_of(one), hints[one.name]), one.name


def test_the_signatures_of_plan_and_plans_name_the_keywords():
    tree = ast.parse(Path(mipp.planning.__file__).read_text())
    taken = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("plan", "plans"):
            taken.setdefault(node.name, []).append(ast.unparse(node.args.kwarg.annotation))
    each = ["Unpack[UnitKeywords]", "Unpack[WeightKeywords]", "Unpack[BlockKeywords]", "Any"]
    assert taken == {"plan": each, "plans": each}


@pytest.mark.parametrize("record", [Options, WeightOptions, BlockOptions])
def test_each_has_a_line_of_help_that_names_its_choices_and_is_in_the_docstring(record):
    for one in fields(record):
        line = options.help_of(record, one.name)
        assert line[0].isupper()
        assert line.endswith(".")
        for word in words_of(types_of(record)[one.name]) - {"unit"}:
            assert f"`{word}`" in line, (one.name, word)
        assert f"{one.name}: {line.replace('`', '``')}" in record.__doc__


def test_the_page_of_options_is_made_from_them():
    """Mended by ``python scripts/write_options.py``."""
    spec = importlib.util.spec_from_file_location("write_options", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.PAGE.read_text()
    assert script.page(text) == text


def test_a_plan_records_each_option_that_can_change_it():
    recorded = to_dict(Options(), "macs=50%")
    left_out = {
        "calibration",
        "latency",
        "loss",
        "memory",
        "outputs",
        "training",
        "widths",
        "resume",
    }
    left_out |= {"head_dims", "residual"}  # only where they are on
    assert {one.name for one in fields(Options)} - left_out <= set(recorded)


def test_annotations_and_properties_of_options_are_read_in_a_new_process():
    """Also of a record that was made without ``__init__``, as a copy from elsewhere is."""
    code = (
        "from mipp.information import Gaussian; from mipp.options import Options; "
        "made = object.__new__(Options); "
        "vars(made).update(estimator=Gaussian(), target='activations', stop=None); "
        "assert not made.needs_rows; import typing, mipp; "
        "assert {'loss', 'method'} <= set(typing.get_type_hints(mipp.Options))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
