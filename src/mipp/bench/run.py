"""Running a suite: what is missing is done, wherever, and its records appended one by one."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mipp import measurements
from mipp.bench import machine, parents, reading
from mipp.bench.places import Cluster, Done, Here, Place, Processes
from mipp.bench.store import Store
from mipp.bench.suite import Suite
from mipp.bench.work import Device
from mipp.errors import FileError, InputError
from mipp.measurements import Item, Record

Told = Callable[[Record], None]


@dataclass(frozen=True)
class Choice:
    """Which items of a suite; None for all. ``nets`` and ``methods`` are labels or names."""

    seeds: tuple[int, ...] | None = None
    stages: tuple[str, ...] | None = None
    nets: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    limit: int | None = None

    def of(self, suite: Suite, items: list[Item]) -> list[Item]:
        """The items chosen, but for the limit.

        Raises:
            InputError: a seed, stage, net or method that the suite does not have.
        """
        known: dict[str, tuple[Collection[Any] | None, Collection[Any]]] = {
            "--seeds": (self.seeds, {item.seed for item in items}),
            "--stage": (self.stages, {item.stage for item in items}),
            "--nets": (self.nets, {word for item in items for word in _nets(item)}),
            "--methods": (self.methods, {word for item in items for word in _methods(item)}),
        }
        for option, (asked, there) in known.items():
            unknown = [word for word in asked or () if word not in there]
            if unknown:
                raise InputError(
                    f"{option} {unknown[0]} is nothing that {suite.name} has; expected some of "
                    f"{', '.join(sorted(map(str, there)))}."
                )
        return [item for item in items if self._has(item)]

    def _has(self, item: Item) -> bool:
        return (
            (self.seeds is None or item.seed in self.seeds)
            and (self.stages is None or item.stage in self.stages)
            and (self.nets is None or any(word in self.nets for word in _nets(item)))
            and (self.methods is None or any(word in self.methods for word in _methods(item)))
        )


def _nets(item: Item) -> tuple[str, ...]:
    return item.net.label, item.net.name


def _methods(item: Item) -> tuple[str, ...]:
    return () if item.method is None else (item.method.label, item.method.name)


@dataclass(frozen=True)
class How:
    """``jobs``: processes here; ``dask``: address of a scheduler instead. ``command``: as typed."""

    jobs: int = 1
    dask: str | None = None
    device: Device = "auto"
    command: str = "mipp.bench.run"

    def place(self) -> Place:
        """Where items are done.

        Raises:
            InputError: both a cluster and processes, or fewer than one.
        """
        if self.jobs < 1 or (self.dask is not None and self.jobs > 1):
            raise InputError(
                f"--jobs {self.jobs} was given{' with --dask' if self.dask else ''}; expected at "
                "least 1, and no --jobs beside --dask, whose workers are the processes."
            )
        n_threads = max(1, min(torch.get_num_threads(), machine.cores() // self.jobs))
        if self.dask is not None:
            return Cluster(self.dask, self.device)
        if self.jobs == 1:
            return Here(self.device, n_threads)
        return Processes(self.jobs, self.device, n_threads)


@dataclass
class Outcome:
    """What a run came to.

    ``done``: measured; ``copied``: from other suites' records; ``failed``: item and text;
    ``elsewhere``: items that another run was at.
    """

    done: int = 0
    copied: int = 0
    failed: list[tuple[Item, str]] = field(default_factory=list)
    elsewhere: int = 0


def with_parents(items: Iterable[Item]) -> list[Item]:
    """The items, after the trained nets that they start from."""
    items = list(items)
    first = {p.id: p for p in (parents.item_of(item) for item in items if item.stage == "trained")}
    return [*first.values(), *items]


def todo(suite: Suite, store: Store, choice: Choice) -> list[Item]:
    """What is chosen and not finished, parents first; the limit does not count parents."""
    finished = store.ids()
    chosen = choice.of(suite, reading.items(suite))
    open_now = [item for item in chosen if item.id not in finished][: choice.limit]
    return [item for item in with_parents(open_now) if item.id not in finished]


def run(
    suite: Suite, store: Store, items: list[Item], how: How, told: Told = lambda _: None
) -> Outcome:
    """Does the items, parents before all others; ``told`` is called with every new record.

    A killed run loses the items that are in flight, no others; another run of the same suite at
    the same time does other items.

    Raises:
        InputError: see `How.place` and `mipp.bench.places`.
    """
    outcome, place = Outcome(), how.place()
    items = _copied(suite, store, items, outcome, told)
    for phase in (
        [item for item in items if item.kind == "parent"],
        [item for item in items if item.kind != "parent"],
    ):
        by_id, left = {item.id: item for item in phase}, deque(phase)

        def following(left: deque[Item] = left) -> Item | None:
            while left:
                item = left.popleft()
                if store.claim(item.id):
                    return item
                outcome.elsewhere += 1
            return None

        try:
            for done in place.do(following) if phase else ():
                _note(suite, store, how, by_id[done["id"]], done, outcome, told)
        finally:
            store.release_all()
    return outcome


def _note(
    suite: Suite, store: Store, how: How, item: Item, done: Done, outcome: Outcome, told: Told
) -> None:
    if "error" in done:
        outcome.failed.append((item, done["error"]))
    else:
        record = _record(suite, item, done, how.command)
        if store.append([record]):
            outcome.done += 1
            told(record)
    store.release(item.id)


def _record(suite: Suite, item: Item, done: Done, command: str) -> Record:
    parts: dict[str, Any] = {name: done[name] for name in done if name != "id"}
    return Record.model_validate(
        {
            "schema": 1,
            "suite": suite.name,
            "id": item.id,
            "item": item,
            "commit": machine.commit(),
            "command": command,
            **parts,
        }
    )


def _copied(
    suite: Suite, store: Store, items: list[Item], outcome: Outcome, told: Told
) -> list[Item]:
    """Takes over what other suites in the same folder have measured; the items that are left."""
    wanted = {item.id: item for item in items}
    found: dict[str, Record] = {}
    for path in sorted(store.path.parent.glob("*.jsonl")) if store.path.parent.is_dir() else []:
        if path != store.path:
            found |= {r.id: r for r in _readable(path) if r.id in wanted}
    copies = [
        record.model_copy(update={"suite": suite.name, "item": wanted[id_]})
        for id_, record in found.items()
    ]
    for record in store.append(copies) if copies else []:
        outcome.copied += 1
        told(record)
    return [item for item in items if item.id not in found]


def _readable(path: Path) -> tuple[Record, ...]:
    try:
        return measurements.read(path).records
    except FileError:  # some other file: nothing of ours is in it
        return ()
