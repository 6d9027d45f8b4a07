"""Python on the pages for users runs as it stands, from top to bottom; error texts are real."""

import os
import re
from pathlib import Path

import pytest
import torch

from mipp import methods
from mipp.graph.rules import rule as registry
from mipp.tracing import forwards

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    pytest.param("quickstart.md", marks=pytest.mark.slow),  # trains, and exports to ONNX
    "guides/image-classifier.md",
    "guides/language-model.md",
    "guides/latency.md",
    "guides/depth.md",
    "guides/single-weights.md",
    "guides/iterative.md",
    "guides/several-processes.md",
    "guides/own-op-or-layer.md",
    "guides/own-method.md",
    "concepts/what-is-measured.md",
    "concepts/information.md",
    "concepts/budgets.md",
    "concepts/refit.md",
    "concepts/graph-and-refusals.md",
    "coming-from/torch-pruning.md",
    "coming-from/torch-prune.md",
    "coming-from/nni.md",
)
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")
"""What stands before a block that is only read: the reason, as a comment."""
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.M | re.S)


def code_of(text):
    """The Python of a page in one piece, each line at its place on the page."""
    lines = [""] * (text.count("\n") + 1)
    for match in BLOCK.finditer(text):
        if NOT_RUN.search(text[: match.start()]):
            continue
        first = text.count("\n", 0, match.start(2))
        for offset, line in enumerate(match[2].splitlines()):
            lines[first + offset] = line.removeprefix(match[1])
    return "\n".join(lines)


@pytest.fixture
def registries_as_before():
    """Rules, forwards and methods that a page registers are there for that page alone."""
    registries = (registry._RULES, forwards._FORWARDS, methods._ALL)
    before = [found.copy() for found in registries]
    yield
    for found, kept in zip(registries, before, strict=True):
        found.clear()
        found.update(kept)


@pytest.mark.usefixtures("registries_as_before")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    threads = torch.get_num_threads()
    code = code_of((DOCS / page).read_text())
    assert code.strip()
    try:
        exec(compile(code, page, "exec"), {"__name__": "page"})
    finally:
        torch.set_num_threads(threads)
    capsys.readouterr()


def test_blocks_are_joined_at_their_lines_and_marked_ones_are_left_out():
    page = "A\n\n```python\nx = 1\n```\n\n<!-- not run: no GPU -->\n\n```python\ny\n```\n"
    assert code_of(page) == "\n\n\nx = 1" + "\n" * 8
