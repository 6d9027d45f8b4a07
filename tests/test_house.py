"""The house: one name for each module, and checks that hold in tests."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import jaxtyping
import pytest
import torch

import mipp
from mipp.moments import Moments

SOURCE = Path(mipp.__file__).parent
ROOT = Path(__file__).parents[1]


def test_no_two_modules_have_one_name():
    names = Counter(path.name for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_shapes_in_signatures_are_checked_in_every_test():
    moments = Moments(4, torch.device("cpu"))
    with pytest.raises(jaxtyping.TypeCheckError):
        moments.update(torch.zeros(3))


@pytest.mark.parametrize("folder", ["src", "lab"])
def test_texts_on_extras_also_say_how_to_install_them_from_a_clone(folder):
    """`mipp.errors.how_to_install` does; the text of a command's help cannot be filled in."""
    for path in (ROOT / folder).rglob("*.py"):
        text = " ".join(path.read_text().split())
        for extra in re.findall(r"pip install 'torch-mipp\[([^]]+)\]'", text):
            assert f"pip install -e '.[{extra}]'" in text, path


def test_extras_that_texts_name_exist():
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )
    for folder in ("src", "lab"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            named = re.findall(
                r"how_to_install\([\"'](\w+)[\"']\)|(?:torch-mipp|'\.)\[([\w,]+)\]", text
            )
            found = {name for pair in named for part in pair for name in part.split(",") if name}
            assert found <= extras, path


def test_the_source_archive_has_what_tests_read():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    read = {"docs", "scripts", "mkdocs.yml", "Makefile", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert read <= set(packed)
