"""What a command writes: text for people, one line of JSON for machines, files and exit codes.

Every error becomes one readable message.
"""

import json
import logging
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich
import typer
from rich.console import Console, RenderableType
from rich.text import Text

from mipp.atomic_files import replacing
from mipp.cli.looks import REFUSED
from mipp.errors import BudgetError, FileError, InputError, MippError

FAILED = 1
WRONG_USAGE = 2
BUG = 70
"""EX_SOFTWARE of sysexits.h."""
INTERRUPTED = 130
"""What a shell gives for a process that SIGINT ended."""

_STAGES = "mipp.stages"
"""The logger of `mipp.progress.STAGES`, which cannot be imported without torch."""
NOTE = "note:"


@dataclass(frozen=True, eq=False)
class Output:
    """Where a command writes.

    Attributes:
        console: for people.
        as_json: whether stdout is for one JSON object, its last line.
    """

    console: Console
    as_json: bool

    def show(self, what: RenderableType) -> None:
        """Prints a table or text."""
        self.console.print(what)

    def say(self, text: str) -> None:
        """Prints a line as it is: brackets are no markup, and numbers have no colours."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Prints a line about how to read the figures, marked as such."""
        line = Text.assemble((f"{NOTE} ", REFUSED), text)
        self.console.print(line, highlight=False, soft_wrap=True)

    @contextmanager
    def collected(self) -> Iterator[list[str]]:
        """Holds the warnings of the block back, which would tear bars and tables apart.

        Yields a list that has the text of each of them once, after the block. If that fails, they
        are printed on stderr.
        """
        texts: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            try:
                yield texts
            except BaseException:
                for text in _texts(caught):
                    typer.echo(f"warning: {text}", err=True)
                raise
        texts += _texts(caught)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Shows a spinner, on terminals."""
        with self.console.status(f"{what} ..."):
            yield

    @contextmanager
    def followed(self) -> Iterator[bool | None]:
        """Yields ``progress=`` for calls of the library: bars on terminals, lines elsewhere.

        Lines are what the library logs; they are printed as long as the block runs, those of stages
        on stderr.
        """
        logger, handler = logging.getLogger("mipp"), _Printed(self)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            # not `is_terminal`, which the environment can claim of a file, for its colours
            yield None if self.console.file.isatty() else False
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)

    def result(self, content: Mapping[str, Any]) -> None:
        """Prints the object as the last line of stdout, with ``--json`` only."""
        if self.as_json:
            typer.echo(json.dumps(content, allow_nan=False))


def _texts(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    return list(dict.fromkeys(str(each.message) for each in caught))


class _Printed(logging.Handler):
    """Prints log lines where a command writes for people."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.INFO)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the text alone; that of a stage on stderr, since it is no result."""
        if record.name == _STAGES:
            typer.echo(self.format(record), err=True)
        else:
            self._output.say(self.format(record))


def open_output(as_json: bool) -> Output:
    """The output of a command: all that rich prints goes to stdout, or to stderr beside JSON.

    Markup and emoji are off, also in tables: ``1:100:`` is a ratio.
    """
    rich.reconfigure(stderr=as_json, markup=False, emoji=False)
    return Output(rich.get_console(), as_json)


def check_target(
    path: Path | None,
    option: str,
    *,
    suffix: str,
    source: Path | None = None,
    force: bool = True,
) -> None:
    """Find out now whether a file can be written.

    Args:
        path: of the file; None for no file.
        option: of the command line, for the error.
        suffix: that its name must have.
        source: the file that the work starts from, which must be another.
        force: whether a file that exists may be replaced.

    Raises:
        InputError: its name does not end in ``suffix``.
        FileError: its folder is missing or cannot be written to, it is a folder, it is ``source``,
            or it exists.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise InputError(f"{option} {path}: expected a name that ends in {suffix}.")
    if path.is_dir():
        raise FileError(f"{option} {path} is a folder; expected the name of a file.")
    if source is not None and path.resolve() == source.resolve():
        raise FileError(
            f"{option} {path} is the file that the weights come from, and would replace them. "
            "Give another name."
        )
    check_folder(path.parent, option)
    if path.exists() and not force:
        raise FileError(
            f"{option} {path}: there is such a file already. Give another name, or --force to "
            "replace it."
        )


def check_folder(folder: Path, option: str) -> None:
    """Raise `FileError` unless files can be made in the folder."""
    if not folder.is_dir():
        raise FileError(f"{option}: there is no folder {folder}. Make it first, or give another.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(
            f"{option}: nothing can be written to {folder} ({error.strerror or error}). Change "
            "its permissions, or give another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write the whole file, or raise `FileError`."""
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {error}. Check room and permissions."
        ) from error


def warn_plainly() -> None:
    """Shows only the text of warnings, without a line of the library's code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


class Guard:
    """Decides which errors are wrong usage: those about arguments, until these are read."""

    def __init__(self) -> None:
        self.reading = True

    def arguments_read(self) -> None:
        """All arguments are read; errors from here on are errors of the work."""
        self.reading = False

    @contextmanager
    def arguments(self) -> Iterator[None]:
        """A block that reads arguments which need the model: its `InputError` is wrong usage."""
        try:
            yield
        except InputError:
            self.reading = True
            raise

    def code(self, error: MippError) -> int:
        """The exit code. Errors of files and of the user's own code are no wrong usage."""
        plain = error.__cause__ is None and isinstance(error, InputError | BudgetError)
        wrong = self.reading and plain
        return WRONG_USAGE if wrong else FAILED


@contextmanager
def readable_errors(debug: bool) -> Iterator[Guard]:
    """Turns errors into a message on stderr and an exit code; with ``debug``, a traceback first."""
    guard = Guard()
    try:
        yield guard
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except MippError as error:
        _show_error(str(error), debug)
        raise typer.Exit(guard.code(error)) from error
    except KeyboardInterrupt as error:
        _show_error("interrupted", debug)
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as with `| head`
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        _show_error(what if debug else f"{what}\nRun again with --debug to see where.", debug)
        raise typer.Exit(BUG) from error


def _show_error(message: str, debug: bool) -> None:
    if debug:
        typer.echo(_whole_traceback(), err=True)
    text = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True).print(text, soft_wrap=True)


def _whole_traceback() -> str:
    """The traceback of the current error, with the errors that it hides (``from None``)."""
    error: BaseException | None = sys.exc_info()[1]
    while error is not None:
        error.__suppress_context__ = False
        error = error.__cause__ or error.__context__
    return traceback.format_exc()
