"""The commands, put together."""

from typing import Annotated

import typer

import mipp
from mipp.cli.demo import demo
from mipp.cli.evaluate import evaluate
from mipp.cli.exit_codes import EXIT_CODES, readable_errors
from mipp.cli.export_command import export
from mipp.cli.inspect import inspect
from mipp.cli.methods import methods
from mipp.cli.prune import prune
from mipp.cli.train import train
from mipp.errors import InputError

app = typer.Typer(
    name="mipp",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
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


app.command(epilog=EXIT_CODES)(inspect)
app.command(epilog=EXIT_CODES)(prune)
app.command(epilog=EXIT_CODES)(methods)
app.command("eval", epilog=EXIT_CODES)(evaluate)
app.command(epilog=EXIT_CODES)(export)
app.command(epilog=EXIT_CODES)(train)
app.command(epilog=EXIT_CODES)(demo)


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
    app(prog_name="mipp")
