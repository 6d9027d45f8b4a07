"""One HTML file that needs nothing else: style, Plotly and data are inside."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mipp.atomic_files import replacing
from mipp.errors import FileError, InputError, how_to_install
from mipp.report.figures import Choice, Figure, looks
from mipp.report.net_picture import Picture
from mipp.report.styles import DARK, FAMILIES, FEW, LIGHT, Style
from mipp.report.tables import Table

SUFFIXES = (".html", ".htm")

BUTTONS = 5
"""Up to so many options are buttons in a row; more are in a drop-down list."""

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""Forbids the browser to load anything: the page is complete."""


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: the heading.
        about: paragraphs, as plain text.
        parts: figures, pictures, tables and facts, in order.
    """

    title: str
    about: str = ""
    parts: tuple["Figure | Picture | Table | Facts", ...] = ()


@dataclass(frozen=True)
class Facts:
    """A list of names and words.

    Attributes:
        title: of the list.
        rows: (name, words) of each.
        folded: whether a click shows it.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    folded: bool = True


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: of the page.
        lead: paragraphs at the top.
        sections: in order.
        styles: of the methods that occur, by label.
        footer: paragraphs at the bottom.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    styles: Mapping[str, Style] = field(default_factory=dict)
    footer: str = ""

    def html(self) -> str:
        """The whole file.

        Raises:
            InputError: Plotly, which draws the figures, is not installed.
        """
        plotly = plotly_javascript()
        numbers = _Numbers()
        body = "\n".join(
            _section(section, index, numbers) for index, section in enumerate(self.sections)
        )
        links = "".join(
            f'<a href="#s{index}">{escape(section.title)}</a>'
            for index, section in enumerate(self.sections)
        )
        menu = f'<nav class="contents">{links}</nav>' if len(self.sections) > 1 else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_asset('page.css')}</style>\n"
            f"</head>\n<body>\n<header><h1>{escape(self.title)}</h1>{_paragraphs(self.lead)}"
            f'{menu}</header>\n<div id="bar"></div>\n<main>\n{body}\n</main>\n'
            f"<footer>{_paragraphs(self.footer)}</footer>\n"
            f'<script type="application/json" id="look">{_json(self._look())}</script>\n'
            f"<script>{plotly}</script>\n<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
        )

    def _look(self) -> dict[str, Any]:
        everything = len(self.styles) <= FEW
        return {
            "palette": {"light": LIGHT, "dark": DARK},
            "families": [asdict(f) | {"first": f.first or everything} for f in FAMILIES],
            "styles": {label: looks(style) for label, style in self.styles.items()},
        }


def plotly_javascript() -> str:
    """Plotly's JavaScript, some 5 MB, from its Python package.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError(_NO_PLOTLY) from error
    script: str = get_plotlyjs()
    return script


def check_plotly() -> None:
    """Raise `InputError` now, and not after long work, if a report could not be drawn."""
    if find_spec("plotly") is None:
        raise InputError(_NO_PLOTLY)


_NO_PLOTLY = (
    "A report is drawn by Plotly, which is not installed. Install it with "
    f"{how_to_install('report')}."
)


def write(path: Path, text: str) -> None:
    """Writes the whole page, or none.

    Raises:
        InputError: a name that browsers would not open as a page.
        FileError: it cannot be written there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"the report {path}: a report is a page of HTML, and expected is a name that ends in "
            f"{' or '.join(SUFFIXES)}. Give such a name; a browser can print the page as a PDF."
        )
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"the report {path} cannot be written: {error.strerror or error}. Expected a file name "
            "in a folder that is there and can be written to; check it, and that there is room."
        ) from error


class _Numbers:
    """Counts figures and tables of a page."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


def _section(section: Section, index: int, numbers: _Numbers) -> str:
    parts = "\n".join(_part(part, numbers) for part in section.parts)
    return (
        f'<section id="s{index}"><h2>{escape(section.title)}</h2>'
        f"{_paragraphs(section.about)}\n{parts}\n</section>"
    )


def _part(part: "Figure | Picture | Table | Facts", numbers: _Numbers) -> str:
    if isinstance(part, Facts):
        if part.folded:
            return _folded(part.rows, part.title)
        lines = "".join(
            f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in part.rows
        )
        return f'<dl class="cards">{lines}</dl>'
    if isinstance(part, Picture):
        return part.html()
    if isinstance(part, Table):
        return f'<div class="tables">{_table(part, ())}</div>'
    return _figure(part, numbers.next())


def _figure(figure: Figure, number: int) -> str:
    choices = "".join(
        _choice(choice, f"f{number}c{index}") for index, choice in enumerate(figure.choices)
    )
    tables = "".join(_table(table, options) for options, table in figure.tables.items())
    made = _folded(figure.made) if figure.made else ""
    return (
        f'<figure id="f{number}"><h3>{escape(figure.title)}</h3>'
        f'<div class="choices">{choices}</div>'
        f'<div class="canvas" style="height:{figure.height}px" role="img" '
        f'aria-label="{escape(figure.title)}"></div><div class="legend"></div>'
        f"<figcaption>{escape(figure.caption)}</figcaption>"
        '<div class="actions"><button data-do="svg">Figure as SVG</button>'
        '<button data-do="figure-csv">Figure as CSV</button></div>'
        f'<div class="tables">{tables}</div>{made}'
        f'<script type="application/json" class="data">{_json(figure.content())}</script></figure>'
    )


def _folded(rows: Iterable[tuple[str, str]], title: str = "How this was made") -> str:
    """Facts that a click shows."""
    lines = "".join(f"<dt>{escape(what)}</dt><dd>{escape(words)}</dd>" for what, words in rows)
    return f'<details class="made"><summary>{escape(title)}</summary><dl>{lines}</dl></details>'


def _choice(choice: Choice, name: str) -> str:
    if len(choice.options) < 2:
        return f'<input type="hidden" name="{name}" value="{escape(choice.options[0][0])}">'
    title = escape(choice.title)
    if len(choice.options) > BUTTONS:
        options = "".join(
            f'<option value="{escape(key)}">{escape(words)}</option>'
            for key, words in choice.options
        )
        return f'<label class="pick">{title} <select name="{name}">{options}</select></label>'
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{escape(key)}"'
        f"{' checked' * (index == 0)}><span>{escape(words)}</span></label>"
        for index, (key, words) in enumerate(choice.options)
    )
    return f'<fieldset class="segments"><legend>{title}</legend>{buttons}</fieldset>'


def _table(table: Table, options: Sequence[str]) -> str:
    return (
        f'<div class="table" data-options="{escape(json.dumps(list(options)))}">'
        f'<p class="note">{escape(table.note)}</p>'
        f'<div class="scroll">{table.html()}</div><div class="actions">'
        '<button data-do="csv">Table as CSV</button><button data-do="latex">as LaTeX</button>'
        '<button data-do="turn">Swap rows and columns</button></div></div>'
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _json(content: Any) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return resources.files("mipp.report").joinpath(name).read_text(encoding="utf-8")
