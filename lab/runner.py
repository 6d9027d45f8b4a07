"""Running suites and experiments: what is missing is done, and its records appended one by one."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from lab import machine, measurements, parents
from lab.executors import Cluster, Done, Executor, Here, Processes
from lab.experiment import ExperimentItem
from lab.measurements import Item, Record, Row
from lab.run_item import Device
from lab.store import Store
from mipp.errors import FileError, InputError

AnyItem = Item | ExperimentItem
Reported = Callable[[Record | Row], None]
"""Called with every new record."""


@dataclass(frozen=True)
class Choice:
    """Which items of a suite; None for all. ``nets`` and ``methods`` are labels or names.

    ``only``: fields of an experiment's keys and patterns, ``"net=vgg*"``.
    """

    seeds: tuple[int, ...] | None = None
    stages: tuple[str, ...] | None = None
    nets: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None

    def of(self, name: str, items: Sequence[AnyItem]) -> list[AnyItem]:
        """The items of the suite or experiment ``name`` that are chosen, but for the limit.

        Raises:
            InputError: A seed, stage, net or method that there is not.
        """
        chosen = list(items)
        for option, asked in (
            ("--seeds", self.seeds),
            ("--stage", self.stages),
            ("--nets", self.nets),
            ("--methods", self.methods),
        ):
            if asked is None:
                continue
            there = {word for item in items for word in item.chosen_by[option]}
            unknown = [word for word in asked if word not in there]
            if unknown:
                raise InputError(
                    f"{option} {unknown[0]} is nothing that {name} has; expected some of "
                    f"{', '.join(sorted(map(str, there)))}."
                )
            wanted = set(asked)
            chosen = [item for item in chosen if wanted.intersection(item.chosen_by[option])]
        for part in self.only:
            chosen = [item for item in chosen if _matches(item, part)]
        return chosen


def _matches(item: AnyItem, part: str) -> bool:
    """Whether a field of an experiment's key has a value like the pattern, as in ``net=vgg*``."""
    name, found, pattern = part.partition("=")
    if not found or isinstance(item, Item):
        raise InputError(
            f"--only {part}: expected FIELD=PATTERN, with a field of an experiment's keys; suites "
            "have --seeds, --stage, --nets and --methods."
        )
    return name in item.key and fnmatch(str(item.key[name]), pattern)


@dataclass(frozen=True)
class How:
    """``jobs``: processes here; ``dask``: address of a scheduler instead. ``command``: as typed."""

    jobs: int = 1
    dask: str | None = None
    device: Device = "auto"
    command: str = "lab.runner"

    def executor(self) -> Executor:
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
    failed: list[tuple[AnyItem, str]] = field(default_factory=list)
    elsewhere: int = 0


def with_parents(items: Iterable[AnyItem]) -> list[AnyItem]:
    """The items, after the trained nets that those of suites start from."""
    items = list(items)
    trained = [item for item in items if isinstance(item, Item) and item.stage == "trained"]
    first = {parent.id: parent for parent in map(parents.item_of, trained)}
    return [*first.values(), *items]


def todo(name: str, items: Sequence[AnyItem], store: Store[Any], choice: Choice) -> list[AnyItem]:
    """What is chosen and not finished, parents first; the limit does not count parents."""
    finished = store.ids()
    chosen = choice.of(name, items)
    open_now = [item for item in chosen if item.id not in finished][: choice.limit]
    return [item for item in with_parents(open_now) if item.id not in finished]


def run(
    name: str,
    store: Store[Any],
    items: Sequence[AnyItem],
    how: How,
    report: Reported = lambda _: None,
) -> Outcome:
    """Does the items of the suite or experiment ``name``, parents before all others.

    ``report`` is called with every new record. A killed run loses the items that are in flight, no
    others; another run of the same suite at the same time does other items.

    Raises:
        InputError: See `How.executor` and `lab.executors`.
    """
    outcome, executor = Outcome(), how.executor()
    items = _copied(name, store, items, outcome, report)
    for phase in (
        [item for item in items if item.kind == "parent"],
        [item for item in items if item.kind != "parent"],
    ):
        by_id, left = {item.id: item for item in phase}, deque(phase)

        def following(left: deque[AnyItem] = left) -> AnyItem | None:
            while left:
                item = left.popleft()
                if store.claim(item.id):
                    return item
                outcome.elsewhere += 1
            return None

        try:
            for done in executor.do(following) if phase else ():
                item = by_id[done["id"]]
                if "error" in done:
                    outcome.failed.append((item, done["error"]))
                else:
                    record = _record(name, item, done, how.command)
                    if store.append([record]):
                        outcome.done += 1
                        report(record)
                store.release(item.id)
        finally:
            store.release_all()
    return outcome


def _record(name: str, item: AnyItem, done: Done, command: str) -> Record | Row:
    if isinstance(item, ExperimentItem):
        rest = {key: value for key, value in done.items() if key != "result"}
        return Row.model_validate(done["result"] | rest)
    parts: dict[str, Any] = {name: done[name] for name in done if name != "id"}
    return Record.model_validate(
        {
            "schema": 1,
            "suite": name,
            "id": item.id,
            "item": item,
            "commit": machine.commit(),
            "command": command,
            **parts,
        }
    )


def _copied(
    name: str, store: Store[Any], items: Sequence[AnyItem], outcome: Outcome, report: Reported
) -> list[AnyItem]:
    """Takes over what other suites in the same folder have measured; the items that are left."""
    wanted = {item.id: item for item in items if isinstance(item, Item)}
    found: dict[str, Record] = {}
    paths = sorted(store.path.parent.glob("*.jsonl")) if store.path.parent.is_dir() else []
    for path in paths if wanted else ():
        if path != store.path:
            found |= {r.id: r for r in _readable(path) if r.id in wanted}
    copies = [
        record.model_copy(update={"suite": name, "item": wanted[id_]})
        for id_, record in found.items()
    ]
    for record in store.append(copies) if copies else []:
        outcome.copied += 1
        report(record)
    return [item for item in items if item.id not in found]


def _readable(path: Path) -> tuple[Record, ...]:
    try:
        return measurements.read(path).records
    except FileError:  # an experiment's, or some other file: nothing of a suite is in it
        return ()
