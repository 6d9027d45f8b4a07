"""Where a command speaks: text for people, one line of JSON for machines."""

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import rich
import torch
import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_STAGES = {"capture": "measuring activations", "score": "scoring units", "train": "training"}


@dataclass(frozen=True, eq=False)
class Output:
    """``console``: for people. ``as_json``: stdout is for one JSON object, its last line."""

    console: Console
    as_json: bool

    def show(self, what: RenderableType) -> None:
        """Prints a table or text."""
        self.console.print(what)

    def say(self, text: str) -> None:
        """Prints a line as it is: file names in brackets are no markup, and numbers no colours."""
        self.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """A spinner, on terminals."""
        with self.console.status(f"{what} ..."):
            yield

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int], None]]:
        """Bars, on terminals, behind a callback ``(stage, done, total)`` as `mipp.plan` takes."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            tasks = {"trace": progress.add_task("tracing", total=None)}

            def advance(stage: str, done: int, total: int) -> None:
                progress.update(tasks["trace"], visible=False)
                if stage not in tasks:
                    tasks[stage] = progress.add_task(_STAGES.get(stage, stage), total=total)
                progress.update(tasks[stage], completed=done, total=total)

            yield advance

    def result(self, content: Mapping[str, Any]) -> None:
        """The object as the last line of stdout, if it was asked for."""
        if self.as_json:
            typer.echo(json.dumps(content, allow_nan=False))


def versions() -> dict[str, str]:
    """Of what numbers depend on."""
    return {
        "mipp": metadata.version("torch-mipp"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def open_output(as_json: bool) -> Output:
    """All that rich prints, training's bar too, goes to stdout, or to stderr beside JSON.

    Nothing is markup or has emoji, in tables neither: ``1:100:`` is a ratio.
    """
    rich.reconfigure(stderr=as_json, markup=False, emoji=False)
    return Output(rich.get_console(), as_json)
