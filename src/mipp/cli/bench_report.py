"""``mipp bench report``: one HTML file of what suites have measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mipp import bench, measurements, report
from mipp.cli import arguments as arg
from mipp.cli.exit_codes import readable_errors
from mipp.cli.output import Output, check_target, open_output
from mipp.errors import FileError


def report_suites(
    suites: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE...",
            help="Names that `mipp bench list` has, .toml files, or .jsonl files of records.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The report: a name in .html.")
    ] = Path("report.html"),
    records: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the records are: SUITE.jsonl.")
    ] = Path("results"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Of the suites' tiny versions, whose records are apart.")
    ] = False,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """Write one HTML file with all figures and tables of the suites, complete in itself.

    Works while a suite runs: the report has what is measured so far, and says how much that is.
    """
    with readable_errors(debug) as guard:
        output = open_output(json)
        check_target(out, "--out", suffix=".html")
        guard.arguments_read()
        shown = [_suite(name, records, smoke) for name in suites]
        output.result(write_page(output, shown, out))


def write_page(output: Output, shown: Sequence[report.Suite], path: Path) -> dict[str, Any]:
    """Writes the report, says so, and gives its path, bytes and number of records."""
    report.write(path, report.suites_page(shown))
    size, count = path.stat().st_size, sum(len(suite.records) for suite in shown)
    output.say(f"report of {count} measurements in {path} ({size / 1e6:.1f} MB)")
    return {"path": str(path), "bytes": size, "records": count}


def _suite(name: str, folder: Path, smoke: bool) -> report.Suite:
    if name.endswith(".jsonl"):
        path = Path(name)
        if not path.exists():
            raise FileError(
                f"there are no records {path}. Give a file that mipp bench run has written, or the "
                "name of a suite."
            )
        return report.Suite(path.stem, path.stem, "", measurements.read(path).records)
    wanted = bench.load(name, smoke=smoke)
    return measured(wanted, bench.Store(folder, wanted.name))


def measured(wanted: bench.Suite, store: bench.Store) -> report.Suite:
    """What of a suite is there so far, for a report."""
    items = {item.id for item in bench.with_parents(bench.items(wanted))}
    there = tuple(record for record in store.records() if record.id in items)
    # a paragraph of the suite's file is broken into lines there
    about = "\n\n".join(" ".join(part.split()) for part in wanted.about.split("\n\n"))
    if len(there) < len(items):
        about += f"\n\nUnfinished: {len(there)} of {len(items)} items are measured."
    return report.Suite(wanted.name, wanted.title, about, there)
