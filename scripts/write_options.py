"""Writes the tables of docs/reference/options.md from the fields of the records of options."""

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from mipp.options import BlockOptions, Options, WeightOptions, help_of

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "options.md"
RECORDS = {"units": Options, "blocks": BlockOptions, "weights": WeightOptions}


def rows(record: type) -> list[str]:
    """A row for each field: its name, default and line of help."""
    return [
        f"| `{one.name}` | {_default(one)} | {help_of(record, one.name)} |"
        for one in sorted(fields(record), key=lambda one: one.name)
    ]


def _default(one: "Field[Any]") -> str:
    if one.default is not MISSING:
        return f"`{one.default!r}`"
    assert one.default_factory is not MISSING
    return f"`{type(one.default_factory()).__name__}()`"


def page(text: str) -> str:
    """The page with its tables written anew."""
    for name, record in RECORDS.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        after = rest[rest.index("<!-- end -->") :]
        table = ["| option | default | what it does |", "|---|---|---|", *rows(record)]
        text = f"{before}<!-- {name} -->\n{chr(10).join(table)}\n{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
