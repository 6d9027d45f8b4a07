"""What a reader of a guide writes and runs, and that the page of guides has a time for each."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AS_A_NOTEBOOK = {"yolo.md"}


@pytest.fixture(scope="module")
def timing():
    spec = importlib.util.spec_from_file_location("time_guides", ROOT / "scripts/time_guides.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_guide_is_timed(timing):
    pages = {path.name for path in timing.GUIDES.glob("*.md")} - {"index.md"}
    assert {*timing.TIMED, *AS_A_NOTEBOOK} == pages
    table = (timing.GUIDES / "index.md").read_text().split("## How long a guide takes")[1]
    rows = re.findall(r"^\| \[[^\]]+\]\((\S+\.md)\).* \| (\d+) \|$", table, re.M)
    assert {name for name, _ in rows} == pages


def test_every_guide_that_is_timed_has_code(timing):
    for name in timing.TIMED:
        files = timing.written((timing.GUIDES / name).read_text())
        assert len(files) > 1, name
        assert "pip install" not in files["guide.sh"], name


@pytest.mark.parametrize(
    ("page", "files"),
    [
        (
            "```python\nx = 1\n```\n\n```text\n1\n```\n\n```python\nprint(x)\n```\n",
            {"guide.py": "x = 1\n\nprint(x)\n", "guide.sh": "python guide.py\n"},
        ),
        (
            "Save\nthis as `a.py` and run `python\na.py`:\n\n```python\n1\n```\n\n"
            "```bash\nmipp demo\n```\n",
            {"a.py": "1\n", "guide.sh": "python a.py\nmipp demo\n"},
        ),
        (
            "```python\n1\n```\n\n```bash\nmipp demo\n```\n",
            {"guide.py": "1\n", "guide.sh": "python guide.py\n"},
        ),
        ("<!-- not run: no GPU -->\n\n```python\n1\n```\n", {"guide.sh": ""}),
    ],
)  # fmt: skip
def test_what_a_reader_writes(timing, page, files):
    assert timing.written(page) == files
