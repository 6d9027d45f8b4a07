"""What can be run and shown: a suite or an experiment, by one name and with one face."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import experiments, measurements, runner, suite_files, suite_tables
from lab.experiment import Experiment
from lab.measurements import Record, Row
from lab.report import SuiteRecords
from lab.store import Store
from lab.suite import Suite
from lab.tables import TextTable
from mipp.errors import FileError, InputError


@dataclass(frozen=True)
class Subject:
    """A suite, an experiment, or a file of a suite's records.

    Attributes:
        name: Of the file of records.
        title: One line for the list.
        about: Paragraphs for those who look closer.
        items: What there is to measure, without the parents of a suite.
        suite: The suite, where it is one.
        experiment: The experiment, where it is one.
        file: The file, where it is one.
    """

    name: str
    title: str
    about: str
    items: Sequence[runner.AnyItem]
    suite: Suite | None = None
    experiment: Experiment | None = None
    file: Path | None = None

    def store(self, folder: Path) -> Store[Any]:
        """Its records in the folder."""
        return Store(folder, self.name, Row if self.experiment else Record)

    def tables(self, records: Sequence[Any]) -> Iterable[TextTable | str]:
        """Tables and paragraphs of what is recorded."""
        if self.experiment is not None:
            return self.experiment.tables([record.content for record in records]) if records else ()
        return [table.text() for table in suite_tables.tables(self._mine(records))]

    def tables_as_json(self, records: Sequence[Any]) -> list[dict[str, Any]]:
        """The tables as plain data; those of suites with means and deviations as numbers."""
        if self.suite is not None:
            return suite_tables.as_json(suite_tables.tables(self._mine(records)))
        tables = [table for table in self.tables(records) if isinstance(table, TextTable)]
        return [
            {"title": t.title, "columns": list(t.columns), "rows": [list(row) for row in t.rows]}
            for t in tables
        ]

    def picture(self, records: Sequence[Any]) -> Path:
        """Draws the picture of an experiment.

        Raises:
            InputError: There is none.
        """
        if self.experiment is None or self.experiment.picture is None:
            raise InputError(f"--picture was given, and {self.name} has none. Leave it out.")
        return self.experiment.picture([record.content for record in records])

    def forget(self, store: Store[Any], choice: runner.Choice) -> None:
        """Removes the records of what is chosen, so that it is measured again.

        Raises:
            InputError: This is a suite, whose records are never removed.
        """
        if self.experiment is None:
            raise InputError(
                "--again was given with a suite; expected an experiment. Move the suite's file of "
                "records away to measure it anew."
            )
        chosen = {item.id for item in choice.of(self.name, self.items)}
        store.remove(chosen)

    def for_report(self, folder: Path) -> SuiteRecords:
        """What of the suite is there so far.

        Raises:
            InputError: This is an experiment, which no report has figures for.
        """
        if self.file is not None:
            return SuiteRecords(self.name, self.title, "", measurements.read(self.file).records)
        if self.suite is None:
            raise InputError(
                f"{self.name} is an experiment; reports are drawn of suites. Its tables are "
                f"printed by: python -m lab show {self.name}"
            )
        items = runner.with_parents(self.items)
        there = tuple(self._mine(self.store(folder).records()))
        # a paragraph of the suite's file is broken into lines there
        about = "\n\n".join(" ".join(part.split()) for part in self.about.split("\n\n"))
        if len(there) < len(items):
            about += f"\n\nUnfinished: {len(there)} of {len(items)} items are measured."
        return SuiteRecords(self.name, self.title, about, there)

    def _mine(self, records: Sequence[Record]) -> list[Record]:
        ids = {item.id for item in runner.with_parents(self.items)}
        return [record for record in records if record.id in ids]


def load(name: str, *, smoke: bool = False, settings: Mapping[str, str] | None = None) -> Subject:
    """The suite, experiment, suite file or file of records of that name.

    Names of experiments may have ``-`` for ``_``.

    Raises:
        InputError: There is none, or it has no such settings.
    """
    if (module := name.replace("-", "_")) in experiments.NAMES:
        experiment = experiments.get(module)
        items = experiment.all_items(experiment.with_settings(settings or {}))
        return Subject(module, experiment.title, "", items, experiment=experiment)
    if settings:
        raise InputError(f"--set {next(iter(settings))} was given; suites have no settings.")
    if name.endswith(".jsonl"):
        if not Path(name).exists():
            raise FileError(
                f"there are no records {name}. Give a file that python -m lab run has written, or "
                "the name of a suite."
            )
        return Subject(Path(name).stem, Path(name).stem, "", (), file=Path(name))
    suite = suite_files.load(name, smoke=smoke)
    return Subject(suite.name, suite.title, suite.about.strip(), suite_files.items(suite), suite)


def recorded_suites(folder: Path) -> list[str]:
    """Names of the suites that have records in the folder."""
    return [name for name in suite_files.names() if (folder / f"{name}.jsonl").exists()]
