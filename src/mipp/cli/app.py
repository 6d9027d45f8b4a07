"""The commands, put together."""

from dataclasses import asdict
from typing import Annotated

import typer

import mipp
from mipp.cli import arguments as arg
from mipp.cli.demo import demo
from mipp.cli.evaluate import evaluate
from mipp.cli.export_command import export
from mipp.cli.help_pages import below
from mipp.cli.inspect import inspect
from mipp.cli.output import open_output, readable_errors, warn_plainly
from mipp.cli.prune import prune
from mipp.cli.train import train
from mipp.errors import InputError

app = typer.Typer(
    name="mipp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=below("mipp"),
)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"mipp {mipp.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def mipp_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Mutual information preserving pruning of PyTorch networks."""


def methods(json: arg.Json = False) -> None:
    """List the values of --method: what each looks at, how it ranks, in how many rounds."""
    from mipp.cli import text_tables
    from mipp.methods import facts

    output = open_output(json)
    rows = facts()
    output.show(text_tables.methods(rows))
    output.result({"methods": [asdict(row) for row in rows]})


app.command(epilog=below("inspect"))(inspect)
app.command(epilog=below("prune"))(prune)
app.command(epilog=below("methods"))(methods)
app.command("eval", epilog=below("eval"))(evaluate)
app.command(epilog=below("export"))(export)
app.command(epilog=below("train"))(train)
app.command(epilog=below("demo"))(demo)


@app.command(
    hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench() -> None:
    """Benchmarks are run from a clone of the repository: python -m lab."""
    with readable_errors(debug=False):
        raise InputError(
            "mipp bench was given; benchmarks are no part of the package. In a clone of the "
            "repository, install '.[lab,report]' and use: python -m lab list | run | show | report."
        )


def main() -> None:
    """The command ``mipp``."""
    warn_plainly()
    app(prog_name="mipp")
