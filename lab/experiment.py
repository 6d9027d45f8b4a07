"""An experiment: a module that says what it measures, how, and which tables that makes."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.tables import TextTable
from mipp.errors import InputError

Key = dict[str, Any]
"""All that determines one measurement of an experiment, as JSON."""

Settings = Mapping[str, Any]
"""Settings of a run by name, such as how many calibration images there are."""

Rows = Sequence[dict[str, Any]]
"""Records of an experiment: each is its key and its result in one."""


@dataclass(frozen=True)
class Experiment:
    """What a module of `lab.experiments` offers as ``EXPERIMENT``.

    Attributes:
        name: Name of the module and of the file of records.
        title: One line for the list.
        items: The keys of all measurements under the settings, in the order of running.
        measure: The result of a key under the settings, as JSON.
        tables: Tables and paragraphs of what is recorded.
        settings: Names and defaults of settings; ``--set NAME=VALUE`` changes one.
        picture: Draws a picture of what is recorded into ``docs/img``, and gives its path.
        threads: How many threads a measurement uses; None for as many as torch has.
        isolated: Whether each measurement has a process of its own, for the sake of its memory.
    """

    name: str
    title: str
    items: Callable[[Settings], Iterable[Key]]
    measure: Callable[[Key, Settings], dict[str, Any]]
    tables: Callable[[Rows], Iterable[TextTable | str]]
    settings: Settings = field(default_factory=dict)
    picture: Callable[[Rows], Path] | None = None
    threads: int | None = None
    isolated: bool = False

    def with_settings(self, changed: Mapping[str, str]) -> dict[str, Any]:
        """The settings, with those changed that the command line names.

        Raises:
            InputError: A name that there is not, or a value of another type than the default's.
        """
        found = dict(self.settings)
        for name, text in changed.items():
            if name not in found:
                known = ", ".join(found) or "none"
                raise InputError(f"--set {name} is no setting of {self.name}; expected: {known}.")
            wanted = type(found[name])
            try:
                found[name] = wanted(text)
            except ValueError as error:
                raise InputError(
                    f"--set {name}={text}: expected a value like {found[name]!r}."
                ) from error
        return found

    def all_items(self, settings: Settings | None = None) -> "list[ExperimentItem]":
        """What there is to measure, each once."""
        given = self.settings if settings is None else settings
        made = [ExperimentItem(self.name, key, given) for key in self.items(given)]
        return list({item.id: item for item in made}.values())


@dataclass(frozen=True)
class ExperimentItem:
    """One measurement of an experiment. Its id is that of the key, whatever the settings are."""

    experiment: str
    key: Key
    settings: Settings
    kind: str = "experiment"

    @property
    def id(self) -> str:
        """16 hex digits, from the name of the experiment and the key."""
        content = {"experiment": self.experiment, **self.key}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {"experiment": self.experiment, "key": self.key, "settings": dict(self.settings)}

    @property
    def chosen_by(self) -> dict[str, tuple[Any, ...]]:
        """The words that options of the command line find it by."""
        net = str(self.key.get("net", ""))
        nets = (net, re.split("[/-]", net, maxsplit=1)[0]) if net else ()
        found = {name: (self.key[name],) for name in ("seed", "method") if name in self.key}
        stage = self.key.get("state")
        return {
            "--seeds": found.get("seed", ()),
            "--stage": () if stage is None else (stage,),
            "--nets": nets,
            "--methods": found.get("method", ()),
        }

    @property
    def pace_keys(self) -> list[tuple[str, ...]]:
        """Items that take about as long, the most alike first."""
        return [("experiment",)]

    @property
    def words(self) -> str:
        """The measurement in a line."""
        return ", ".join(f"{name} {value}" for name, value in self.key.items())
