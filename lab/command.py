"""``python -m lab``: suites and experiments, run and shown."""

import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lab import experiments, runner, subjects, suite_files
from lab.pace import Pace, in_words
from lab.report_command import RECORDS, report_suites, write_report
from lab.runner import AnyItem
from lab.store import Store
from lab.tables import TextTable, in_parts
from mipp.cli import arguments as arg
from mipp.cli.help_pages import EXIT_CODES
from mipp.cli.output import FAILED, Output, check_target, open_output, readable_errors
from mipp.cli.text_tables import new_table
from mipp.report import check_plotly

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The laboratory of mipp: run suites and experiments, and show what was measured.",
    epilog=EXIT_CODES,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A suite or experiment of `python -m lab list`, or a .toml file."
    ),
]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...", help="Suites or experiments of `python -m lab list`, or .toml files."
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FOLDER", help="Where the records are: NAME.jsonl."),
]
Smoke = Annotated[
    bool,
    typer.Option("--smoke", help="The suite's tiny version, to try it: its records are apart."),
]
MIN_TITLE, BESIDE_TITLE = 20, 54
"""Columns of a terminal that titles have at least, and that names and numbers need."""


@app.command("list", epilog=EXIT_CODES)
def list_subjects(out: Out = RECORDS, json: arg.Json = False, debug: arg.Debug = False) -> None:
    """The suites and experiments that there are, how far they are, and how long each takes in all.

    Hours are of one process, the mean of what is measured times the items; two processes take half.
    """
    with readable_errors(debug) as guard:
        output = open_output(json)
        guard.arguments_read()
        rows = []
        for name in (*suite_files.names(), *experiments.NAMES):
            subject = subjects.load(name)
            items = runner.with_parents(subject.items)
            records = subject.store(out).records()
            mine = {item.id for item in items}
            done = sum(record.id in mine for record in records)
            rows.append(
                {
                    "name": name,
                    "kind": "suite" if subject.suite else "experiment",
                    "title": subject.title,
                    "items": len(items),
                    "done": done,
                    "seconds": Pace(records).seconds(items) if records else None,
                }
            )
        table = new_table("name", items="right", done="right", time="right", what="left")
        # a line for each suite; `show` and --json have titles whole
        room = max(MIN_TITLE, output.console.width - BESIDE_TITLE)
        for row in rows:
            table.add_row(
                str(row["name"]), str(row["items"]), str(row["done"]),
                in_words(row["seconds"]),  # type: ignore[arg-type]
                textwrap.shorten(str(row["title"]), room, placeholder=" …"),
            )  # fmt: skip
        output.show(table)
        output.result({"subjects": rows})


@app.command("run", epilog=EXIT_CODES)
def run_subjects(
    names: Names,
    out: Out = RECORDS,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes, which share the machine's cores.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler's, such as tcp://10.0.0.1:8786."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: the GPU where there is one.")
    ] = "auto",
    smoke: Smoke = False,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Only these seeds of the suite.")
    ] = None,
    stage: Annotated[
        Literal["trained", "init"] | None, typer.Option(help="Only nets of this stage.")
    ] = None,
    nets: Annotated[
        list[str] | None,
        typer.Option("--nets", help="Only this net, by label or name; can be given again."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--methods", help="Only this row, by label or name; can be given again."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=PATTERN", help="Only such keys of an experiment; can be given again."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of an experiment; can be given again."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure once more what is recorded of an experiment.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many of the items that are missing.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Then write figures and tables of all that is there, in .html."
        ),
    ] = None,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """Measure what is missing. Stop it at any time, and run it again to go on.

    Records are appended to FOLDER/SUITE.jsonl as soon as each is measured.
    """
    with readable_errors(debug) as guard:
        output = open_output(json)
        check_target(report, "--report", suffix=".html")
        chosen = [
            subjects.load(name, smoke=smoke, settings=_pairs(setting or ())) for name in names
        ]
        choice = runner.Choice(
            seeds=None if seeds is None else _numbers(seeds),
            stages=None if stage is None else (stage,),
            nets=tuple(nets) if nets else None,
            methods=tuple(methods) if methods else None,
            only=tuple(only or ()),
            limit=limit,
        )
        how = runner.How(jobs=jobs, dask=dask, device=device, command=_command())
        stores = [subject.store(out) for subject in chosen]
        for subject, store in zip(chosen, stores, strict=True) if again else ():
            subject.forget(store, choice)
        todo = [
            runner.todo(subject.name, subject.items, store, choice)
            for subject, store in zip(chosen, stores, strict=True)
        ]
        guard.arguments_read()
        if report is not None:
            check_plotly()
        found = []
        for subject, store, items in zip(chosen, stores, todo, strict=True):
            outcome = _run(output, subject, store, items, how)
            found.append(_as_json(subject, store, outcome))
        page = None
        if report is not None:
            page = write_report(output, [subject.for_report(out) for subject in chosen], report)
        one = found[0] if len(found) == 1 else {"subjects": found}
        output.result({"report": page, **one})
        if any(part["failed"] for part in found):
            raise typer.Exit(FAILED)


def _run(
    output: Output,
    subject: subjects.Subject,
    store: Store[Any],
    items: Sequence[AnyItem],
    how: runner.How,
) -> runner.Outcome:
    """Measures the items, and says what came of it."""
    if store.torn:
        output.say(
            f"The last line of {store.path} is cut off: a run was killed while it wrote. "
            "That one item is measured again."
        )
    output.say(f"{subject.title}: {len(items)} items to do, into {store.path}")
    with _Shown(output, store.records(), items, how.jobs) as shown:
        outcome = runner.run(subject.name, store, items, how, shown.report)
    _say_outcome(output, outcome)
    return outcome


def _as_json(
    subject: subjects.Subject, store: Store[Any], outcome: runner.Outcome
) -> dict[str, Any]:
    return {
        "name": subject.name,
        "path": str(store.path),
        "done": outcome.done,
        "copied": outcome.copied,
        "elsewhere": outcome.elsewhere,
        "failed": [{"item": item.content(), "error": error} for item, error in outcome.failed],
    }


@app.command("show", epilog=EXIT_CODES)
def show_subject(
    name: Name,
    out: Out = RECORDS,
    smoke: Smoke = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables in Markdown, for documents.")
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture", help="Draw an experiment's picture into docs/img, too.")
    ] = False,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """Tables of what is measured so far, also while a run is at it.

    Mean ± standard deviation over the n seeds; in brackets how many, where that differs.
    """
    with readable_errors(debug) as guard:
        output = open_output(json)
        subject = subjects.load(name, smoke=smoke)
        guard.arguments_read()
        store = subject.store(out)
        records = store.records()
        ids = {item.id for item in runner.with_parents(subject.items)}
        there = [record for record in records if record.id in ids]
        parts = list(subject.tables(records))
        if markdown:
            words = [part if isinstance(part, str) else part.markdown() for part in parts]
            output.say("\n\n".join(words))
        else:
            output.say(f"{subject.title}\n{subject.about}\n")
            for part in parts:
                _show_part(output, part)
        if picture:
            output.say(f"{subject.picture(records)} is drawn.")
        if not records:
            output.say(f"Nothing is measured yet. Run: python -m lab run {name}")
        output.say(f"{len(there)} of {len(ids)} items are there, in {store.path}")
        output.result(
            {
                "name": subject.name,
                "title": subject.title,
                "items": len(ids),
                "done": len(there),
                "tables": subject.tables_as_json(records),
            }
        )


app.command("report", epilog=EXIT_CODES)(report_suites)


class _Shown:
    """A bar with the time that is left, on terminals; a line for each record elsewhere."""

    def __init__(
        self, output: Output, records: Sequence[Any], items: Sequence[AnyItem], jobs: int
    ) -> None:
        self.output, self.jobs = output, jobs
        self.pace = Pace(records)
        self.left = {item.id: item for item in items}
        self.progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
            console=output.console, transient=True, disable=not output.console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task(self._words(), total=len(items))

    def __enter__(self) -> "_Shown":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def report(self, record: Any) -> None:
        """One item is done."""
        self.pace.add(record)
        self.left.pop(record.id, None)
        self.progress.update(self.task, advance=1, description=self._words())
        if not self.output.console.is_terminal:
            self.output.say(f"{record.words}, {record.seconds:.1f} s")

    def _words(self) -> str:
        seconds = self.pace.seconds(list(self.left.values()))
        return "" if seconds is None else f"{in_words(seconds / self.jobs)} left"


def _show_part(output: Output, part: TextTable | str) -> None:
    if isinstance(part, str):
        output.say(f"{part}\n")
        return
    if part.title:
        output.say(part.title)
    for table in in_parts(part, output.console.width):
        output.show(table)


def _say_outcome(output: Output, outcome: runner.Outcome) -> None:
    words = [f"{outcome.done} measured"]
    if outcome.copied:
        words.append(f"{outcome.copied} taken over from other suites in the folder")
    if outcome.elsewhere:
        words.append(f"{outcome.elsewhere} left to another run that is at them")
    output.say(", ".join(words))
    for item, error in outcome.failed:
        output.say(f"failed: {item.words}: {error}")


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, found, value in pairs:
        if not found:
            raise typer.BadParameter(f"--set {name}{value}; expected NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}; expected numbers such as 0,1.") from error


def _command() -> str:
    """What was typed, as a shell takes it."""
    return shlex.join(["python", "-m", "lab", *sys.argv[1:]])


def main() -> None:
    """The command ``python -m lab``."""
    app(prog_name="python -m lab")
