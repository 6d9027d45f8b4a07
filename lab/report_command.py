"""``python -m lab report``: one HTML file of what suites have measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lab import subjects
from lab.report import SuiteRecords, suites_page
from mipp.cli import arguments as arg
from mipp.cli.output import Output, check_target, open_output, readable_errors
from mipp.report import write

RECORDS = Path(__file__).with_name("records")
"""The folder of records that are under version control."""


def report_suites(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE]...",
            help="Names that `python -m lab list` has, .toml files, or "
            ".jsonl files of records; all suites with records unless given.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The report: a name in .html.")
    ] = Path("report.html"),
    records: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the records are: SUITE.jsonl.")
    ] = RECORDS,
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
        names = suites or subjects.recorded_suites(records)
        shown = [subjects.load(name, smoke=smoke).for_report(records) for name in names]
        output.result(write_report(output, shown, out))


def write_report(output: Output, shown: Sequence[SuiteRecords], path: Path) -> dict[str, Any]:
    """Writes the report, says so, and gives its path, bytes and number of records."""
    write(path, suites_page(shown))
    size, count = path.stat().st_size, sum(len(suite.records) for suite in shown)
    output.say(f"report of {count} measurements in {path} ({size / 1e6:.1f} MB)")
    return {"path": str(path), "bytes": size, "records": count}
