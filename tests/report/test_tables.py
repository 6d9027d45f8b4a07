import pytest

from mipp.report.tables import Cell, Row, Table, short


def test_names_cannot_become_markup():
    table = Table("<x>", ('"a"',), (Row("<script>", (Cell("a & b"),)),), note='<"note">')
    html = table.html()
    for raw in ("<script>", "<x>", '<"note">', "a & b"):
        assert raw not in html
    assert "&lt;script&gt;" in html


def test_numbers_of_all_sizes_are_short():
    assert [short(v) for v in (0, 0.01234, 4.567, 45.67, 456.7)] == [
        "0", "0.0123", "4.57", "45.7", "457"]  # fmt: skip
    assert [short(v) for v in (999.6, 2.29e6, 431080, 9.2e6, 5e9)] == [
        "1.00k", "2.29M", "431k", "9.20M", "5.00G"]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (999.6, "1.00k"), (1000, "1.00k"), (9994, "9.99k"),
        (9996, "10.0k"), (99_960, "100k"), (431_080, "431k"), (999_600, "1.00M"),
        (2_293_000, "2.29M"), (4_089_184_256, "4.09G"), (1.5e12, "1.50T"),
    ],
)  # fmt: skip
def test_three_digits(value, text):
    assert short(value) == text
