from lab.report.cells import marked, marked_columns, percent, significant
from lab.report.summaries import over_seeds
from mipp.report.tables import Cell, Row, Summary


def test_the_best_of_each_column_is_marked_and_what_is_within_its_deviation():
    best, near, far = (percent(over_seeds(v)) for v in ([0.9, 0.94], [0.91, 0.90], [0.8, 0.8]))
    rows = [Row("a", (near, Cell())), Row("b", (best, far)), Row("c", (far, best))]
    made = marked_columns(rows, "higher")
    assert [row.cells[0].best for row in made] == [False, True, False]
    assert [row.cells[0].near for row in made] == [True, True, False]
    assert [row.cells[1].best for row in made] == [False, False, True]


def test_the_least_is_best_where_less_is_better_and_equals_are_not_marked():
    low, high = percent(Summary(0.1, 3)), percent(Summary(0.2, 3))
    assert [cell.best for cell in marked([high, low], "lower")] == [False, True]
    assert not any(cell.best for cell in marked([low, low], "lower"))


def test_a_cell_has_what_is_read_and_what_is_exported():
    cell = percent(over_seeds([0.98, 0.96]))
    assert cell.text == "97.0 ± 1.4"
    html = cell.html()
    assert 'data-value="97"' in html
    assert 'data-spread="1.4142136"' in html
    assert 'data-n="2"' in html
    assert percent(None).html() == "<td>–</td>"


def test_large_numbers_are_short():
    assert significant(Summary(2e8, 1), scale=1e-6).text == "200"
