"""Exit codes, and every error as one readable message."""

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from mipp.errors import BudgetError, InputError, MippError

FAILED = 1
WRONG_USAGE = 2
BUG = 70
"""EX_SOFTWARE of sysexits.h."""
INTERRUPTED = 130
"""What a shell gives for a process that SIGINT ended."""

EXIT_CODES = (
    "Exit codes: 0 all went well; 1 an error, or a check of the demo, that the message explains; "
    "2 wrong usage; 70 a mistake in mipp or in code that was given to it; 130 interrupted."
)


def warn_plainly() -> None:
    """Warnings are their text alone: users look for no line of a library."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


class Guard:
    """Which errors are wrong usage: those about arguments, until these are read."""

    def __init__(self) -> None:
        self.reading = True

    def arguments_read(self) -> None:
        """From here on an error is one of the work."""
        self.reading = False

    @contextmanager
    def arguments(self) -> Iterator[None]:
        """While arguments are read that need the model, which an `InputError` is about."""
        try:
            yield
        except InputError:
            self.reading = True
            raise

    def code(self, error: MippError) -> int:
        """The exit code. Files, and what failed in code that was called, are no wrong usage."""
        plain = error.__cause__ is None and isinstance(error, InputError | BudgetError)
        wrong = self.reading and plain
        return WRONG_USAGE if wrong else FAILED


@contextmanager
def readable_errors(debug: bool) -> Iterator[Guard]:
    """Errors become a message on stderr and an exit code; with ``debug`` after a traceback."""
    guard = Guard()
    try:
        yield guard
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except MippError as error:
        _tell(str(error), debug)
        raise typer.Exit(guard.code(error)) from error
    except KeyboardInterrupt as error:
        _tell("interrupted", debug)
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as with `| head`
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        _tell(what if debug else f"{what}\nRun again with --debug to see where.", debug)
        raise typer.Exit(BUG) from error


def _tell(message: str, debug: bool) -> None:
    if debug:
        typer.echo(_whole_traceback(), err=True)
    text = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True).print(text, soft_wrap=True)


def _whole_traceback() -> str:
    """The traceback of the error being handled, with the errors that it hides (``from None``)."""
    error: BaseException | None = sys.exc_info()[1]
    while error is not None:
        error.__suppress_context__ = False
        error = error.__cause__ or error.__context__
    return traceback.format_exc()
