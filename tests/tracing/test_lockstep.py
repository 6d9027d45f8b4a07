"""Runs that wait for each other: who is at each place, errors, and settings of torch."""

import threading

import pytest
import torch

from mipp.tracing.lockstep import visit_in_order

ORDER = {place: number for number, place in enumerate("abc")}


def visited(paths, order=ORDER, first=None):
    """Which runs are at each place; a run goes through the places of its path."""
    found, log = [], []

    def running(number):
        def run(pause):
            for place in paths[number]:
                pause(place)
                log.append((place, number))

        return run

    runs = [running(number) for number in range(len(paths))]
    visit_in_order(runs, order, lambda place, there: found.append((place, list(there))), first)
    return found, log


@pytest.mark.parametrize("n", [1, 3])
def test_all_runs_are_at_a_place_before_any_goes_on(n):
    found, log = visited(["abc"] * n)
    assert found == [(place, list(range(n))) for place in "abc"]
    assert [place for place, _ in log] == sorted(place for place, _ in log)


def test_a_run_may_leave_places_out_and_waits_for_those_that_are_behind():
    found, log = visited(["abc", "c", "bc"])
    assert found == [("a", [0]), ("b", [0, 2]), ("c", [0, 1, 2])]
    assert len(log) == 6


def test_a_place_that_was_visited_holds_nobody_up():
    found, log = visited(["aab", "ba"])
    assert found == [("a", [0]), ("b", [0, 1])]
    assert sorted(log) == [("a", 0), ("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_other_processes_can_have_places_where_nobody_waits_here():
    wanted = iter(["a", "b", "c", None])
    found, _ = visited(["ac"], first=lambda _: next(wanted))
    assert found == [("a", [0]), ("b", []), ("c", [0])]


@pytest.mark.parametrize("memory", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("paths", [["abc"] * 3, ["ab", "c", "bc", "ac"], ["aab", "ba"]])
def test_runs_for_which_there_is_no_room_come_by_again(paths, memory):
    starts, saved, found, most = [0] * len(paths), [], [], 0
    inside = set()

    def running(number):
        def run(pause):
            starts[number] += 1
            inside.add(number)
            try:
                for place in paths[number]:
                    pause(place, holds=1.0)
            finally:
                inside.discard(number)

        return run

    def visit(place, there):
        nonlocal most
        most = max(most, len(inside))
        found.append((place, there))

    runs = [running(number) for number in range(len(paths))]
    visit_in_order(runs, ORDER, visit, memory=memory, leave=saved.append)
    assert found == visited(paths)[0]
    assert most <= max(memory, 1)
    assert sum(starts) == len(paths) + len(saved)
    assert bool(saved) == (memory < len(paths))


@pytest.mark.parametrize("where", ["run", "visit"])
def test_an_error_ends_all_runs(where):
    before = threading.active_count()

    def run(pause):
        pause("a")
        if where == "run":
            raise ValueError("here")
        pause("b")

    def visit(place, _):
        if where == "visit" and place == "b":
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        visit_in_order([run, run, run], ORDER, visit)
    assert threading.active_count() == before


def test_threads_have_torchs_settings_of_the_caller():
    seen = []

    def run(pause):
        pause("a")
        cpu = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        seen.append((torch.is_grad_enabled(), cpu, torch.empty(0).device.type))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        visit_in_order([run, run], ORDER, lambda *_: None)
    assert seen == [(False, torch.bfloat16, "meta")] * 2
    visit_in_order([run, run], ORDER, lambda *_: None)
    assert seen[2:] == [(True, None, "cpu")] * 2
