"""Python on the pages for users runs as it stands, from top to bottom, and prints what they say."""

import os
import re
from pathlib import Path

import pytest
import torch

from mipp import methods
from mipp.graph.rules import rule as registry
from mipp.tracing import forwards
from tests.docs import printed

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
BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$"
    r"(?:\n\n(?P=indent)```text\n(?P<stated>.*?)^(?P=indent)```$)?",
    re.M | re.S,
)


def blocks_of(text):
    """Each block of Python at its line of the page, and what the page says that it prints."""
    for match in BLOCK.finditer(text):
        if NOT_RUN.search(text[: match.start()]):
            continue
        lines = [line.removeprefix(match["indent"]) for line in match["code"].splitlines()]
        yield "\n" * text.count("\n", 0, match.start("code")) + "\n".join(lines), match["stated"]


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
    threads, namespace = torch.get_num_threads(), {"__name__": "page"}
    blocks = list(blocks_of((DOCS / page).read_text()))
    assert blocks
    try:
        for code, stated in blocks:
            exec(compile(code, page, "exec"), namespace)
            found = capsys.readouterr().out
            assert stated is None or printed.difference(found, stated) is None
    finally:
        torch.set_num_threads(threads)


def test_the_quickstart_says_what_each_of_its_steps_prints():
    stated = [stated for _, stated in blocks_of((DOCS / "quickstart.md").read_text())]
    assert sum(text is not None for text in stated) >= 5


def test_blocks_keep_their_lines_and_marked_ones_are_left_out():
    page = "A\n\n```python\nx = 1\n```\n\n<!-- not run: no GPU -->\n\n```python\ny\n```\n"
    assert list(blocks_of(page)) == [("\n\n\nx = 1", None)]


@pytest.mark.parametrize(
    ("stated", "same"),
    [
        ("conv2 16 -> 5 units, 98.8% of 0.665 nats", True),
        ("conv2   16 ->   6 units, 96.4% of 0.6 nats", True),  # another processor
        ("conv2 16 -> 5 units, 94.1% of 0.665 nats", False),
        ("conv2 16 -> 15 units, 98.8% of 0.665 nats", False),
        ("conv3 16 -> 5 units, 98.8% of 0.665 nats", False),
        ("conv2 16 -> 5 units, 98.8% of 0.665 nats and more", False),
    ],
)
def test_stated_output_may_vary_in_its_numbers_a_little(stated, same):
    found = printed.difference("conv2 16 -> 5 units, 98.8% of 0.665 nats\n", stated)
    assert (found is None) == same
