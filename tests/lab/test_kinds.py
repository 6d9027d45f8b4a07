"""One contract for all kinds: plain items, results that say what the kind is for, tables."""

import math

import pytest

from lab import kinds, suite_files, suite_tables
from lab.measurements import Item, Record
from lab.pace import Pace, in_words
from lab.run_item import perform
from tests.lab.small import tiny
from tests.lab.test_measurements import record

MORE = {
    "scarce": "[settings]\nfractions = [0.25, 1.0]\nimbalances = [1, 4]\nmost_epochs = 2.0",
    "scratch": '[settings]\nwidths = ["plan"]\nmost = 2.0',
    "deformed": '[settings]\ndeformations = ["noisy"]',
}
SAYS = {
    "accuracy": ("accuracy", "left", "cost", "widths", "nats"),
    "collapse": ("left", "widths", "collapsed", "untrainable"),
    "layers": ("left", "widths"),
    "deformed": ("accuracy", "left"),
    "ablation": ("accuracy", "nats"),
    "scarce": ("accuracy", "balanced_accuracy", "train_images"),
    "scratch": ("accuracy", "left"),
    "cost": ("left", "peak_memory"),
}
INIT = ("collapse", "layers", "cost")
"""Kinds that need no trained net, which the others have."""


def suite_of(kind):
    stages = ("init",) if kind in INIT else ("trained",)
    return suite_files.read(tiny(kind, stages, more=MORE.get(kind, "")), "tiny.toml")


def done(item):
    """The record of an item, measured here."""
    found = perform(item.content(), "cpu", 1)
    assert "error" not in found, found
    return Record.model_validate(record().model_dump(by_alias=True) | found | {"item": item})


@pytest.fixture(scope="module")
def measured(parents_cache):
    """Kind -> records of its tiny suite: of its first method alone where it trains."""
    environment = pytest.MonkeyPatch()
    environment.setenv("MIPP_CACHE", str(parents_cache))
    found = {}
    for kind in kinds.names():
        items = suite_files.items(suite_of(kind))
        items = items if kind in ("collapse", "layers", "scratch") else items[:1]
        found[kind] = [done(item) for item in items]
    environment.undo()
    return found


@pytest.mark.parametrize("kind", kinds.names())
def test_items_are_plain_data_with_ids_of_their_own(kind):
    items = suite_files.items(suite_of(kind))
    assert len(items) >= 2
    for item in items:
        again = Item.model_validate(item.content())
        assert (again, again.id) == (item, item.id)
        assert item.kind == kind
    assert len({item.id for item in items}) == len(items)


@pytest.mark.parametrize("kind", kinds.names())
def test_results_say_what_the_kind_is_for(kind, measured):
    for one in measured[kind]:
        for name in SAYS[kind]:
            assert getattr(one.result, name) is not None, name
        assert 0 < one.result.left.units <= 0.5
        assert one.result.seconds.total > 0
        assert Record.model_validate_json(one.line()) == one


@pytest.mark.parametrize("kind", kinds.names())
def test_tables_show_every_record(kind, measured):
    tables = suite_tables.tables(measured[kind])
    assert tables
    assert suite_tables.as_json(tables)[0]["title"] == tables[0].title
    for table in tables:
        assert all(len(cells) == len(table.columns) for _, cells in table.rows)
        numbers = [c.mean for _, cells in table.rows for c in cells if c is not None]
        assert numbers
        assert all(math.isfinite(number) for number in numbers)
        assert len(table.text().markdown().splitlines()) == 4 + len(table.rows)


def test_the_same_item_gives_the_same_result(measured):
    first = measured["layers"][0]
    assert done(first.item).result.widths == first.result.widths


def test_accuracy_of_trained_nets_has_all_four_moments(measured):
    accuracy = measured["accuracy"][0].result.accuracy
    moments = (accuracy.unpruned, accuracy.at_once, accuracy.refit, accuracy.retrained)
    assert all(0 < moment < 1 for moment in moments)


def test_few_images_are_trained_on_longer_and_imbalance_once_is_all():
    items = [i for i in suite_files.items(suite_of("scarce")) if i.method.name == "mipp"]
    assert [(i.fraction, i.imbalance, i.net.epochs, i.retraining.epochs) for i in items] == [
        (0.25, None, 2, 2), (None, None, 1, 1), (None, 4, 1, 1),
    ]  # fmt: skip


def test_nets_from_scratch_are_trained_for_both_trainings_or_their_compute(measured):
    by = {(r.item.initial, r.item.training): r for r in measured["scratch"][:3]}
    assert set(by) == {("pruned", None), ("plan", "epochs"), ("plan", "compute")}
    assert by["plan", "epochs"].result.own_training.epochs == 2
    assert by["plan", "compute"].result.own_training.epochs == 3  # 1 more at a share of 0.48
    assert by["plan", "epochs"].result.left == by["pruned", None].result.left


def test_information_of_the_ablation_is_that_of_held_out_images(measured):
    own, judged = (measured[kind][0].result.nats for kind in ("accuracy", "ablation"))
    assert own.keys() == judged.keys()
    assert own != judged
    assert all(0 <= lost <= before for before, lost in judged.values())


def test_a_net_with_an_empty_layer_is_found_out():
    text = tiny("collapse", budgets=("units=1%",)).replace("random, everywhere", "chance")
    items = [
        i
        for i in suite_files.items(suite_files.read(text, "tiny.toml"))
        if i.method.name == "random"
    ]
    found = done(items[0]).result
    assert found.collapsed
    assert found.untrainable
    table = suite_tables.tables([done(items[0])])[0]
    assert table.columns == ("95-100 %",)
    assert table.rows[0][1][0].mean == 100


def test_mean_and_deviation_are_over_the_seeds():
    rows = [
        record(seed=seed).model_copy(
            update={
                "result": record().result.model_validate(
                    {"seconds": {"total": 1.0}, "accuracy": {"retrained": value}}
                )
            }
        )
        for seed, value in enumerate((0.90, 0.94))
    ]
    table = suite_tables.tables(rows)[0]
    cell = table.rows[0][1][0]
    assert (table.title, table.columns) == (
        "lenet5/mnist, trained: accuracy retrained", ("units=20%",),
    )  # fmt: skip
    assert cell.mean == pytest.approx(92)
    assert cell.sd == pytest.approx(2 * 2**0.5)
    assert suite_tables.in_words(cell) == "92.0 ± 2.8 (2)"
    assert table.heading() == "lenet5/mnist, trained: accuracy retrained (%; n = 2)"
    assert table.text().rows == [[table.rows[0][0], "92.0 ± 2.8"]]


def test_counts_are_in_the_cells_only_where_they_differ():
    cells = suite_tables.Cell(1.5, None, 1), suite_tables.Cell(2.5, 0.5, 2), None
    table = suite_tables.Table("time", "s", ("a", "b", "c"), (("one", cells),))
    assert (table.n, table.heading()) == (None, "time (s)")
    assert table.text().rows == [["one", "1.50 (1)", "2.50 ± 0.50 (2)", "–"]]


def test_shares_of_runs_have_no_deviation():
    rows = [
        record(seed=seed).model_copy(
            update={
                "item": record(seed=seed).item.model_copy(update={"kind": "collapse"}),
                "result": record().result.model_validate(
                    {"seconds": {"total": 1.0}, "collapsed": ["fc1"] * seed, "untrainable": False}
                ),
            }
        )
        for seed in (0, 1, 2)
    ]
    cells = [table.rows[0][1][0] for table in suite_tables.tables(rows)]
    assert [suite_tables.in_words(cell, False) for cell in cells] == ["66.7", "0"]


def test_time_left_is_learned_from_items_of_the_same_row():
    pace = Pace([record()])
    assert pace.seconds([record(seed=5).item] * 4) == 6.0
    assert Pace().seconds([record().item]) is None
    assert [in_words(s) for s in (None, 40, 600, 7200)] == [
        "unknown", "40 s", "10 min", "2.0 h",
    ]  # fmt: skip
