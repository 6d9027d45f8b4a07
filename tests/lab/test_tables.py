import io

from rich.console import Console

from lab.tables import TextTable, in_parts, spread


def test_a_table_that_is_too_wide_goes_on_below_with_all_its_cells():
    columns = [f"column {index}" for index in range(9)]
    rows = [["a" * 40, *(f"{index}.5 ± 0.5" for index in range(9))], ["short", *["–"] * 9]]
    parts = list(in_parts(TextTable("", ["", *columns], rows), 80))
    assert len(parts) > 1
    assert [c.header for part in parts for c in part.columns[1:]] == columns
    console = Console(width=80, file=io.StringIO())
    for part in parts:
        console.print(part)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(f"{index}.5 ± 0.5" in line for line in lines) for index in range(9))
    assert sum("short" in line for line in lines) == len(parts)


def test_one_column_wider_than_the_screen_is_still_shown():
    assert len(list(in_parts(TextTable("", ["", "x" * 50], [["a", "1"]]), 20))) == 1


def test_numbers_over_seeds_have_their_deviation():
    assert spread([]) == "-"
    assert spread([0.5]) == "50.0"
    assert spread([0.4, 0.6]) == "50.0 ± 14.1"


def test_a_table_in_markdown_has_its_title_above():
    table = TextTable("some", ["a", "b"], [["1", "2"]])
    assert table.markdown() == "some\n\n| a | b |\n|---|---|\n| 1 | 2 |"
