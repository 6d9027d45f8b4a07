"""``mipp bench``: suites of measurements, run and shown."""

import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mipp import bench
from mipp.cli import arguments as arg
from mipp.cli.bench_report import measured, report_suites, write_page
from mipp.cli.exit_codes import EXIT_CODES, FAILED, readable_errors
from mipp.cli.output import Output, check_target, open_output
from mipp.cli.text_tables import in_parts, new_table
from mipp.measurements import Item, Record
from mipp.report import check_plotly

app = typer.Typer(
    no_args_is_help=True,
    help="Run suites of measurements, and show what was measured.",
    epilog=EXIT_CODES,
)

SuiteName = Annotated[
    str,
    typer.Argument(metavar="SUITE", help="A name that `mipp bench list` has, or a .toml file."),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FOLDER", help="Where the records are: SUITE.jsonl."),
]
Smoke = Annotated[
    bool,
    typer.Option("--smoke", help="The suite's tiny version, to try it: its records are apart."),
]
RESULTS = Path("results")
MIN_TITLE, BESIDE_TITLE = 20, 54
"""Columns of a terminal that titles have at least, and that names and numbers need."""


@app.command("list", epilog=EXIT_CODES)
def list_suites(out: Out = RESULTS, json: arg.Json = False, debug: arg.Debug = False) -> None:
    """The suites that there are, how far they are, and how long the whole of each takes.

    Hours are of one process, the mean of what is measured times the items; two processes take half.
    """
    with readable_errors(debug) as guard:
        output = open_output(json)
        guard.arguments_read()
        rows = []
        for name in bench.names():
            suite = bench.load(name)
            items = bench.with_parents(bench.items(suite))
            records = bench.Store(out, suite.name).records()
            mine = {item.id for item in items}
            done = sum(record.id in mine for record in records)
            rows.append(
                {
                    "name": name,
                    "title": suite.title,
                    "items": len(items),
                    "done": done,
                    "seconds": bench.Pace(records).seconds(items) if records else None,
                }
            )
        table = new_table("suite", items="right", done="right", time="right", what="left")
        # a line for each suite; `show` and --json have titles whole
        room = max(MIN_TITLE, output.console.width - BESIDE_TITLE)
        for row in rows:
            table.add_row(
                str(row["name"]), str(row["items"]), str(row["done"]),
                bench.in_words(row["seconds"]),  # type: ignore[arg-type]
                textwrap.shorten(str(row["title"]), room, placeholder=" …"),
            )  # fmt: skip
        output.show(table)
        output.result({"suites": rows})


@app.command("run", epilog=EXIT_CODES)
def run_suite(
    suite: SuiteName,
    out: Out = RESULTS,
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
        wanted = bench.load(suite, smoke=smoke)
        store = bench.Store(out, wanted.name)
        choice = bench.Choice(
            seeds=None if seeds is None else _numbers(seeds),
            stages=None if stage is None else (stage,),
            nets=tuple(nets) if nets else None,
            methods=tuple(methods) if methods else None,
            limit=limit,
        )
        how = bench.How(jobs=jobs, dask=dask, device=device, command=_command())
        items = bench.todo(wanted, store, choice)
        guard.arguments_read()
        if report is not None:
            check_plotly()
        if store.torn:
            output.say(
                f"The last line of {store.path} is cut off: a run was killed while it wrote. "
                "That one item is measured again."
            )
        output.say(f"{wanted.title}: {len(items)} items to do, into {store.path}")
        with _Shown(output, store.records(), items, jobs) as shown:
            outcome = bench.run(wanted, store, items, how, shown.told)
        _tell(output, outcome)
        page = None
        if report is not None:
            page = write_page(output, [measured(wanted, store)], report)
        output.result(
            {
                "suite": wanted.name,
                "report": page,
                "path": str(store.path),
                "done": outcome.done,
                "copied": outcome.copied,
                "elsewhere": outcome.elsewhere,
                "failed": [
                    {"item": item.content(), "error": error} for item, error in outcome.failed
                ],
            }
        )
        if outcome.failed:
            raise typer.Exit(FAILED)


@app.command("show", epilog=EXIT_CODES)
def show_suite(
    suite: SuiteName,
    out: Out = RESULTS,
    smoke: Smoke = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables in Markdown, for documents.")
    ] = False,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """Tables of what is measured so far, also while a run is at it.

    Mean ± standard deviation over the n seeds; in brackets how many, where that differs.
    """
    with readable_errors(debug) as guard:
        output = open_output(json)
        wanted = bench.load(suite, smoke=smoke)
        guard.arguments_read()
        store = bench.Store(out, wanted.name)
        records = store.records()
        items = bench.with_parents(bench.items(wanted))
        ids = {item.id for item in items}
        there = [record for record in records if record.id in ids]
        tables = bench.tables(there)
        if markdown:
            output.say("\n\n".join(table.markdown() for table in tables))
        else:
            output.say(f"{wanted.title}\n{wanted.about.strip()}\n")
            for table in tables:
                output.say(table.heading())
                for part in in_parts(table.columns, table.spelled(), output.console.width):
                    output.show(part)
        if not tables:
            output.say(f"Nothing is measured yet. Run: mipp bench run {suite}")
        output.say(f"{len(there)} of {len(items)} items are there, in {store.path}")
        output.result(
            {
                "suite": wanted.name,
                "title": wanted.title,
                "items": len(items),
                "done": len(there),
                "tables": bench.as_json(tables),
            }
        )


app.command("report", epilog=EXIT_CODES)(report_suites)


class _Shown:
    """A bar with the time that is left, on terminals; a line for each record elsewhere."""

    def __init__(
        self,
        output: Output,
        records: Sequence[Record],
        items: Sequence[Item],
        jobs: int,
    ) -> None:
        self.output, self.jobs = output, jobs
        self.pace = bench.Pace(records)
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

    def told(self, record: Record) -> None:
        """One item is done."""
        self.pace.add(record)
        self.left.pop(record.id, None)
        self.progress.update(self.task, advance=1, description=self._words())
        if not self.output.console.is_terminal:
            item, seconds = record.item, record.result.seconds.total
            words = (
                item.kind, item.net.label, item.stage, f"seed {item.seed}",
                item.method.label if item.method else None, item.budget, f"{seconds:.1f} s",
            )  # fmt: skip
            self.output.say(", ".join(filter(None, words)))

    def _words(self) -> str:
        seconds = self.pace.seconds(list(self.left.values()))
        return "" if seconds is None else f"{bench.in_words(seconds / self.jobs)} left"


def _tell(output: Output, outcome: bench.Outcome) -> None:
    words = [f"{outcome.done} measured"]
    if outcome.copied:
        words.append(f"{outcome.copied} taken over from other suites in the folder")
    if outcome.elsewhere:
        words.append(f"{outcome.elsewhere} left to another run that is at them")
    output.say(", ".join(words))
    for item, error in outcome.failed:
        label = item.method.label if item.method else "parent"
        output.say(f"failed: {item.net.label}, seed {item.seed}, {label}, {item.budget}: {error}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}; expected numbers such as 0,1.") from error


def _command() -> str:
    """What was typed, as a shell takes it."""
    return shlex.join(["mipp", *sys.argv[1:]])
