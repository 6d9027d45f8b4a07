"""The notebooks of ``docs/notebooks`` as text: their cells, their pages and their Jupyter form.

A notebook is a script in jupytext's percent format: ``# %% [markdown]`` starts a cell of text,
``# %%`` one of code. `write_notebooks` runs it, and writes a page with what the code printed.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
RUN_IN = "*Run in "
"""How the line begins that says how long a run took, and with what."""
_LINKS = "[As a script]({name}.py); [how to open it](index.md#open-one-yourself)."
_BLOCK = re.compile(
    r"^```python\n.*?^```\n(?:\n```text\n(?P<text>.*?)\n```\n)?(?P<figures>(?:\n!\[.*?\]\(.*?\)\n)*)",
    re.M | re.S,
)
_MARK = re.compile(r"^# %%(?P<rest>.*)\n", re.M)


@dataclass(frozen=True)
class Cell:
    """One cell: its text without comment signs, and the line of the script where it starts."""

    is_code: bool
    text: str
    line: int


@dataclass(frozen=True)
class Output:
    """What a cell of code printed, and what its figures show, in words."""

    text: str = ""
    figures: tuple[str, ...] = ()


def names() -> list[str]:
    """Names of all notebooks.

    Examples:
        >>> "digits" in names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def cells(script: str) -> Iterator[Cell]:
    r"""Cells of a script; what stands before the first mark is left out.

    Examples:
        >>> list(cells("# %%\nx = 1\n"))
        [Cell(is_code=True, text='x = 1', line=2)]
    """
    marks = list(_MARK.finditer(script))
    ends = [mark.start() for mark in marks] + [len(script)]
    for mark, end in zip(marks, ends[1:], strict=True):
        text, is_code = script[mark.end() : end].strip("\n"), "[markdown]" not in mark["rest"]
        if not is_code:
            text = re.sub(r"^# ?", "", text, flags=re.M)
        yield Cell(is_code, text, script.count("\n", 0, mark.end()) + 1)


def digest(script: str) -> str:
    r"""The code that outputs belong to, in sixteen letters. Cells of text do not count.

    Examples:
        >>> digest("# %%\nx = 1\n") == digest("# %% [markdown]\n# One.\n# %%\nx = 1\n")
        True
    """
    code = "\0".join(cell.text for cell in cells(script) if cell.is_code)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def page(name: str, script: str, outputs: Sequence[Output], run_in: str) -> str:
    """The page of a notebook in Markdown; its figures are the files that `figure_name` names.

    Args:
        name: of the notebook.
        script: its text.
        outputs: of each cell of code.
        run_in: how long the run took, and with what.
    """
    parts, left, n_figures = [], iter(outputs), 0
    for cell in cells(script):
        if not cell.is_code:
            parts.append(cell.text)
            continue
        parts.append(f"```python\n{cell.text}\n```")
        output = next(left)
        if output.text:
            parts.append(f"```text\n{output.text}\n```")
        for about in output.figures:
            n_figures += 1
            parts.append(f"![{about}]({figure_name(name, n_figures)})")
    title, _, rest = parts[0].partition("\n\n")
    parts[0] = f"{title}\n\n{_LINKS.format(name=name)} {RUN_IN}{run_in}.*\n\n{rest}"
    parts.append(f"<!-- Made by `make notebooks` from {name}.py, code {digest(script)} -->")
    return "\n\n".join(parts) + "\n"


def stored(page: str) -> tuple[list[Output], str, str]:
    r"""Outputs, facts of the run, and digest of the code, as a page has them.

    Examples:
        >>> script = "# %% [markdown]\n# # Title\n# %%\nprint(1)\n"
        >>> stored(page("one", script, [Output("1")], "2 s"))[:2]
        ([Output(text='1', figures=())], '2 s')
    """
    outputs = [
        Output(match["text"] or "", tuple(re.findall(r"!\[(.*?)\]", match["figures"])))
        for match in _BLOCK.finditer(page)
    ]
    run_in = page.partition(RUN_IN)[2].partition(".*\n")[0]
    return outputs, run_in, re.search(r"code (\w+) -->", page)[1]


def figure_name(name: str, number: int) -> str:
    """File name of a figure, counted from 1.

    Examples:
        >>> figure_name("digits", 1)
        'digits-1.svg'
    """
    return f"{name}-{number}.svg"


def jupyter(script: str) -> str:
    r"""The notebook without outputs as a file of Jupyter.

    Examples:
        >>> json.loads(jupyter("# %%\nx = 1\n"))["cells"][0]["source"]
        'x = 1'
    """
    found = []
    for number, cell in enumerate(cells(script)):
        common = {"id": f"cell-{number}", "metadata": {}, "source": cell.text}
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        found.append(common | (code if cell.is_code else {"cell_type": "markdown"}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {
        "cells": found,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1) + "\n"
