"""Notebooks run, print what their pages say, and are what Jupyter reads."""

import json
import re

import pytest

from tests.docs.long_runs import with_integrations
from tests.docs.notebook_runs import differences, notebooks, run

NEEDED = {"bert": "transformers", "language_model": "transformers"}


def read(name, suffix):
    return (notebooks.FOLDER / f"{name}.{suffix}").read_text()


@pytest.mark.parametrize("name", notebooks.names())
def test_a_page_belongs_to_its_script(name):
    """Mended by `make notebooks`, or by `write_notebooks.py --text` if no code has changed."""
    outputs, run_in, digest = notebooks.stored(read(name, "md"))
    assert digest == notebooks.digest(read(name, "py"))
    assert read(name, "md") == notebooks.page(name, read(name, "py"), outputs, run_in)


def test_every_figure_is_on_a_page_and_every_page_is_listed():
    pages = {path.name: path.read_text() for path in notebooks.FOLDER.glob("*.md")}
    shown = re.findall(r"!\[.*?\]\((.*?)\)", "".join(pages.values()))
    assert sorted(shown) == sorted(path.name for path in notebooks.FOLDER.glob("*.svg"))
    assert all(f"({name}.md)" in pages["index.md"] for name in notebooks.names())


@with_integrations
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in notebooks.names() if name != "yolo"])
def test_a_notebook_prints_what_its_page_says(name, tmp_path):
    """That of YOLO is tested among the integrations."""
    for package in ("matplotlib", NEEDED.get(name, "mipp")):
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert "Warning" not in run(name, tmp_path)
    assert differences(name, tmp_path) == {}


def test_other_outputs_are_noticed(tmp_path):
    page = read("digits", "md")
    (tmp_path / "digits.md").write_text(page.replace("stays: it is", "goes: it is", 1))
    assert list(differences("digits", tmp_path)) == [1]
    (tmp_path / "digits.md").write_text(re.sub(r"!\[.*?\]\(digits-1.svg\)\n\n", "", page))
    assert list(differences("digits", tmp_path)) == [3]


@pytest.mark.parametrize("name", notebooks.names())
def test_jupytext_reads_the_same_cells(name):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    theirs = jupytext.reads(read(name, "py"), fmt="py:percent")
    mine = json.loads(notebooks.jupyter(read(name, "py")))
    assert [(cell["cell_type"], cell["source"]) for cell in mine["cells"]] == [
        (cell.cell_type, cell.source) for cell in theirs.cells
    ]
