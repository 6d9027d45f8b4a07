"""Records under version control: each is one of the items of its suite or experiment."""

import hashlib
import json
from pathlib import Path

import pytest

from lab import experiments, runner, subjects, suite_files
from lab.report_command import RECORDS
from lab.tables import TextTable

NAMES = sorted(path.stem for path in RECORDS.glob("*.jsonl"))
IDS = json.loads(Path(__file__).with_name("suite_ids.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_record_is_one_of_the_items_and_is_there_once(name):
    subject = subjects.load(name)
    ids = {item.id for item in runner.with_parents(subject.items)}
    found = [record.id for record in subject.store(RECORDS).records()]
    assert len(found) == len(set(found))
    assert set(found) <= ids


@pytest.mark.parametrize("name", sorted(set(NAMES) & set(experiments.NAMES)))
def test_an_id_is_made_of_the_name_and_the_key_that_the_record_has(name):
    subject = subjects.load(name)
    items = {item.id: item for item in subject.items}
    for record in subject.store(RECORDS).records():
        assert items[record.id].key.items() <= record.content.items()


@pytest.mark.parametrize("name", sorted(IDS))
def test_items_of_suites_are_what_they_were_so_that_old_records_are_found(name):
    smoke = name.endswith("-smoke")
    suite = suite_files.load(name.removesuffix("-smoke"), smoke=smoke)
    ids = [item.id for item in runner.with_parents(suite_files.items(suite))]
    whole = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]
    assert [len(ids), whole] == IDS[name]


def test_the_ids_on_file_are_of_all_suites():
    assert set(IDS) == {name + end for name in suite_files.names() for end in ("", "-smoke")}


@pytest.mark.parametrize("name", NAMES)
def test_every_table_is_printed_from_records(name):
    subject = subjects.load(name)
    records = subject.store(RECORDS).records()
    tables = [part for part in subject.tables(records) if isinstance(part, TextTable)]
    assert tables
    for table in tables:
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert len(subject.tables_as_json(records)) == len(tables)
