"""Records: the id, the line, and files that end in half a line."""

import pytest

from lab import measurements
from lab.measurements import Item, Record
from mipp.errors import FileError

ITEM = {
    "kind": "accuracy",
    "net": {"name": "lenet5", "width": 1, "data": "mnist", "epochs": 5},
    "stage": "trained",
    "seed": 0,
    "method": {"label": "mipp", "name": "mipp", "options": {"allocation": "uniform"}},
    "budget": "units=20%",
}


def record(**item):
    item = Item.model_validate(ITEM | item)
    return Record.model_validate(
        {
            "schema": 1,
            "suite": "some",
            "id": item.id,
            "item": item,
            "result": {"seconds": {"total": 1.5}, "widths": {"conv1": [6, 20]}},
            "versions": {"mipp": "1", "torch": "2", "python": "3"},
            "machine": {
                "processor": "x", "cores": 2, "threads": 1, "memory": 8, "device": "cpu",
            },
            "command": "python -m lab run some",
            "finished": "2026-01-01T00:00:00Z",
        }
    )  # fmt: skip


def test_the_label_does_not_change_the_id_and_all_else_does():
    first = Item.model_validate(ITEM)
    other = ITEM | {"method": ITEM["method"] | {"label": "another word"}}
    assert Item.model_validate(other).id == first.id
    assert Item.model_validate(ITEM | {"net": ITEM["net"] | {"width": 1.0}}).id == first.id
    for change in (
        {"seed": 1},
        {"budget": "units=10%"},
        {"stage": "init"},
        {"method": ITEM["method"] | {"options": {}}},
        {"net": ITEM["net"] | {"width": 0.5}},
        {"fraction": 0.05},
    ):
        assert Item.model_validate(ITEM | change).id != first.id


def test_the_id_stays_what_it_was_so_that_old_results_are_found():
    assert Item.model_validate(ITEM).id == "b56c39831ebf10c0"


def test_a_record_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(record().line() + "\n" + record(seed=1).line() + "\n")
    found = measurements.read(path)
    assert found.records == (record(), record(seed=1))
    assert not found.torn


def test_half_a_line_at_the_end_is_told_and_is_no_record(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(record().line() + "\n" + record(seed=1).line()[:-40])
    found = measurements.read(path)
    assert found.records == (record(),)
    assert found.torn


def test_a_damaged_line_elsewhere_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(record().line()[:-40] + "\n" + record(seed=1).line() + "\n")
    with pytest.raises(FileError, match=r"some\.jsonl, line 1 is no record of the lab"):
        measurements.read(path)


def test_an_absent_file_has_no_records(tmp_path):
    assert measurements.read(tmp_path / "absent.jsonl").records == ()
