"""Running: nothing is measured twice, nothing finished is lost, whatever is killed."""

import json
import os
import signal
import time

import pytest

from lab import measurements, parents, runner, suite_files
from lab.store import Store
from mipp.errors import InputError
from tests.lab.small import tiny
from tests.lab.test_measurements import record

NIGHTLY = pytest.mark.skipif("MIPP_NIGHTLY" not in os.environ, reason="long: in make nightly")

SEEDS = range(6)


def suite_file(tmp_path, **given):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny(**given))
    return path


def run(suite, folder, how=runner.How(), choice=runner.Choice()):  # noqa: B008 - frozen
    store = Store(folder, suite.name)
    items = runner.todo(suite.name, suite_files.items(suite), store, choice)
    return runner.run(suite.name, store, items, how)


def test_what_is_finished_is_not_measured_again(tmp_path):
    suite = suite_files.read(tiny(seeds=(0, 1)), "tiny.toml")
    first = run(suite, tmp_path, choice=runner.Choice(seeds=(0,)))
    before = (tmp_path / "tiny.jsonl").read_bytes()
    second = run(suite, tmp_path)
    assert (first.done, second.done) == (2, 2)
    assert (tmp_path / "tiny.jsonl").read_bytes().startswith(before)
    assert run(suite, tmp_path).done == 0


def test_a_record_says_how_it_was_made(tmp_path):
    suite = suite_files.read(tiny(), "tiny.toml")
    run(suite, tmp_path, runner.How(command="python -m lab run tiny"))
    found = Store(tmp_path, "tiny").records()[0]
    assert found.id == found.item.id == suite_files.items(suite)[0].id
    assert found.command == "python -m lab run tiny"
    assert found.machine.cores >= 1
    assert found.machine.memory > 2**20
    assert found.result.seconds.total >= found.result.seconds.plan > 0
    assert found.finished.endswith("+00:00")


def test_what_another_suite_has_measured_is_taken_over(tmp_path):
    suite = suite_files.read(tiny(), "tiny.toml")
    other = suite_files.read(tiny().replace('"tiny"', '"other"'), "other.toml")
    run(suite, tmp_path)
    outcome = run(other, tmp_path)
    assert (outcome.done, outcome.copied) == (0, 2)
    made, copied = (Store(tmp_path, name).records() for name in ("tiny", "other"))
    assert [r.suite for r in copied] == ["other"] * 2
    assert [r.result for r in made] == [r.result for r in copied]


def test_an_item_that_fails_is_told_and_the_others_go_on(tmp_path):
    # three groups and the floor of one unit each: this budget cannot be met
    suite = suite_files.read(tiny(budgets=("units=0.1%", "units=50%")), "tiny.toml")
    outcome = run(suite, tmp_path)
    assert outcome.done == 2
    assert [item.budget for item, _ in outcome.failed] == ["units=0.1%"] * 2
    assert "cannot be reached" in outcome.failed[0][1]
    assert run(suite, tmp_path).done == 0


def test_records_are_there_once_and_half_a_line_goes(tmp_path):
    store = Store(tmp_path, "some")
    assert len(store.append([record(), record(), record(seed=1)])) == 2
    with store.path.open("a") as file:
        file.write(record(seed=2).line()[:-7])
    assert store.torn
    assert len(store.append([record(seed=1), record(seed=3)])) == 1
    assert not store.torn
    assert [r.item.seed for r in store.records()] == [0, 1, 3]


def test_a_last_line_whose_end_an_editor_took_is_kept(tmp_path):
    store = Store(tmp_path, "some")
    store.append([record()])
    store.path.write_text(store.path.read_text().rstrip("\n"))
    store.append([record(seed=1)])
    assert [r.item.seed for r in store.records()] == [0, 1]


def test_an_item_is_claimed_by_one_run_at_a_time(tmp_path):
    one, other = (Store(tmp_path, "some") for _ in range(2))
    item = record().id
    assert one.claim(item)
    assert not other.claim(item)
    one.release(item)
    assert other.claim(item)
    other.append([record()])
    other.release(item)
    assert not one.claim(item)


@pytest.mark.slow
@NIGHTLY
def test_two_processes_share_the_work(tmp_path):
    suite = suite_files.read(tiny(seeds=(0, 1)), "tiny.toml")
    outcome = run(suite, tmp_path, runner.How(jobs=2))
    assert outcome.done == 4
    serial = run(suite_files.read(tiny(seeds=(0, 1)), "tiny.toml"), tmp_path / "serial")
    assert serial.done == 4
    widths = [
        {r.id: r.result.widths for r in Store(tmp_path / name, "tiny").records()}
        for name in ("", "serial")
    ]
    assert widths[0] == widths[1]


def test_a_parent_is_trained_once_and_then_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIPP_CACHE", str(tmp_path / "cache"))
    suite = suite_files.read(tiny("layers", ("trained",)), "tiny.toml")
    run(suite, tmp_path)
    records = {r.item.kind: r for r in Store(tmp_path, "tiny").records()}
    assert records["parent"].result.seconds.retrain > 0
    assert [p.name for p in (tmp_path / "cache" / "parents").glob("*.safetensors")] == [
        "digits_cnn-w0.25-digits-e1-seed0.safetensors"
    ]
    run(suite, tmp_path / "again")
    again = {r.item.kind: r for r in Store(tmp_path / "again", "tiny").records()}
    assert again["parent"].result.seconds.retrain is None
    assert again["parent"].result.accuracy == records["parent"].result.accuracy


def test_parents_have_the_names_that_the_scripts_give_them():
    item = {"kind": "parent", "seed": 1}
    nets = {
        "lenet5-mnist-seed1": {"name": "lenet5", "data": "mnist", "epochs": 5},
        "vgg11-w0.25-cifar10-seed1":
            {"name": "vgg11", "width": 0.25, "data": "cifar10", "epochs": 14},
        "vgg11-cifar10-e30-seed1": {"name": "vgg11", "data": "cifar10", "epochs": 30},
    }  # fmt: skip
    for name, net in nets.items():
        found = parents.path_of(measurements.Item.model_validate(item | {"net": net}))
        assert found.stem == name


def lines_of(content):
    return content.count(b"\n")


def lines(path):
    return lines_of(path.read_bytes()) if path.exists() else 0


def wait_for(path, count, process):
    """Until the file has so many whole lines."""
    until = time.monotonic() + 300
    while lines(path) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def all_there_once(path, n_items):
    records = measurements.read(path).records
    assert len(records) == n_items
    assert len({r.id for r in records}) == n_items


def test_a_killed_run_loses_nothing_that_was_finished(tmp_path, spawn):
    file, path = suite_file(tmp_path, seeds=SEEDS), tmp_path / "out" / "tiny.jsonl"
    command = ("lab", "run", file, "--out", path.parent)
    killed = spawn(*command)
    wait_for(path, 3, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = path.read_bytes()
    assert 3 <= lines(path) < 2 * len(SEEDS)
    output, _ = spawn(*command).communicate(timeout=300)
    whole = before[: before.rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole)
    n_left = 2 * len(SEEDS) - lines_of(whole)
    assert f"{n_left} measured" in output
    all_there_once(path, 2 * len(SEEDS))


@pytest.mark.slow
def test_two_runs_at_once_measure_every_item_once(tmp_path, spawn):
    file, path = suite_file(tmp_path, seeds=SEEDS), tmp_path / "out" / "tiny.jsonl"
    command = ("lab", "run", file, "--out", path.parent, "--json")
    runs = [spawn(*command) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    all_there_once(path, 2 * len(SEEDS))


@pytest.mark.slow
@NIGHTLY
def test_a_cluster_that_loses_a_worker_still_has_all_records_once(tmp_path, spawn):
    pytest.importorskip("distributed")
    where = tmp_path / "scheduler.json"
    options = ("--scheduler-file", where)
    spawn("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", *options)
    while not where.exists():
        time.sleep(0.1)
    address = json.loads(where.read_text())["address"]
    alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", tmp_path)
    workers = [spawn("distributed.cli.dask_worker", address, *alone) for _ in range(2)]
    seeds = range(8)
    file, path = suite_file(tmp_path, seeds=seeds), tmp_path / "out" / "tiny.jsonl"
    done = spawn("lab", "run", file, "--out", path.parent, "--dask", address)
    wait_for(path, 4, done)
    os.kill(workers[0].pid, signal.SIGKILL)
    output, _ = done.communicate(timeout=400)
    assert done.returncode == 0, output
    assert workers[1].poll() is None
    all_there_once(path, 2 * len(seeds))


def test_processes_beside_a_cluster_are_refused(tmp_path):
    suite = suite_files.read(tiny(), "tiny.toml")
    with pytest.raises(InputError, match="--jobs 2 was given with --dask"):
        run(suite, tmp_path, runner.How(jobs=2, dask="tcp://127.0.0.1:1"))
