"""Names that break at their dots, and colours that mean something."""

import pytest
from rich.console import Console

from mipp.cli.looks import Names, at_dots, change, kept, near_path
from mipp.cli.text_tables import new_table


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("model.layers.0.mlp.gate_proj", 40, ["model.layers.0.mlp.gate_proj"]),
        ("model.layers.0.mlp.gate_proj", 20, ["model.layers.0.mlp.", "  gate_proj"]),
        ("model.layers.0.mlp.gate_proj", 9, ["model.", "  layers.", "  0.mlp.", "  gate_proj"]),
        ("averylongname", 5, ["averylongname"]),
        ("conv1", 5, ["conv1"]),
    ],
)
def test_a_name_goes_on_after_a_dot(name, width, lines):
    assert at_dots(name, width) == lines


def test_a_table_is_no_wider_than_the_screen_and_cuts_no_word():
    table = new_table("group", units="right", what="left")
    table.add_row(Names(("model.decoder.blocks.11.attention.projection",)), "64", "word " * 12)
    console = Console(width=40, record=True)
    console.print(table)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 40
    for part in ("decoder.", "attention.", "projection"):
        assert part in shown


def test_what_shrank_is_marked_and_what_did_not_is_not():
    assert [str(span.style) for span in change("64", "26", True).spans] == ["dim", "green"]
    assert not [span for span in change("64", "64", False).spans if str(span.style)]
    assert [kept("x", share).style for share in (0.99, 0.7, 0.3, None)] == ["", "yellow", "red", ""]


def test_paths_keep_their_last_folder():
    assert near_path("aten.mean at a/b/c_d/e.py:64 `x / y`") == "aten.mean at c_d/e.py:64 `x / y`"
    assert near_path("at net.py:3") == "at net.py:3"
