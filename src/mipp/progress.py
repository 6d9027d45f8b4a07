"""How far a call is: bars on terminals and in notebooks, log lines elsewhere.

Bars are drawn by rich on stderr, after half a second, and are gone when the call ends. Where there
are none, each stage is one line at level INFO of the logger ``mipp``. Of several processes only
rank 0 shows anything, and of calls within calls only the outer one.
"""

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from typing import IO, Any

from mipp.checks import shown
from mipp.errors import InputError
from mipp.options import Progress

LOGGER = logging.getLogger("mipp")
STAGES = LOGGER.getChild("stages")
"""Logs the lines of stages, apart from results such as those of epochs."""

BEFORE_BARS = 0.5
"""Seconds before bars are drawn, so that short calls do not flicker."""
BETWEEN_FRAMES = 0.1
"""Seconds between two frames, as with rich's own thread, which would disturb what is timed."""
BEFORE_LINE = 5.0
"""Seconds of a stage after which its line is written, with the time left. Shorter stages have
theirs at the end."""

_STAGES = {
    "trace": "tracing", "capture": "measuring activations", "score": "scoring units",
    "train": "training", "refit": "refitting", "tune": "tuning",
}  # fmt: skip

_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Follower:
    """Called as ``follower(stage, done, total)``. This one shows nothing."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done."""

    def describe(self, words: str) -> None:
        """What stands beside the bar of training."""

    def line(self, text: str) -> None:
        """A line for those who see no bar."""

    def close(self) -> None:
        """The call is over, or has failed."""


class _Called(Follower):
    """Calls a function of the user's."""

    def __init__(self, function: Progress) -> None:
        self._function = function

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._function(stage, done, total)


class _Lines(Follower):
    """Writes what `line` is given, and one line for each stage unless that is None."""

    def __init__(
        self, write: Callable[[str], object], write_stage: Callable[[str], object] | None
    ) -> None:
        self.line = write  # type: ignore[method-assign, assignment]
        self._write_stage = write_stage
        self._stage, self._done, self._written = "", 0, False
        self._begun = self._last = time.monotonic()
        self._first = (self._begun, 0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, words = time.monotonic(), _STAGES.get(stage, stage)
        if stage != self._stage or done < self._done:
            self._stage, self._written = stage, False
            self._begun = self._last  # it took the time since the stage before ...
            self._first = (now, done)  # ... part of which was preparation, such as tracing
        self._done, self._last = done, now
        since, so_far = self._first
        if self._written or self._write_stage is None:
            return
        if done >= total:
            self._written = True
            self._write_stage(f"{words}: {done} of {total}, {in_words(now - self._begun)}")
        elif now - since >= BEFORE_LINE and done > so_far:
            self._written = True
            left = in_words((now - since) / (done - so_far) * (total - done))
            self._write_stage(f"{words}: {done} of {total}, about {left} left")


class _AboveBars:
    """A stream that writes to another, above the bars as soon as there are any."""

    def __init__(self, stream: IO[str], above: Any) -> None:
        self._stream, self._above, self.drawn = stream, above, False

    def write(self, text: str) -> int:
        return int((self._above if self.drawn else self._stream).write(text))

    def flush(self) -> None:
        (self._above if self.drawn else self._stream).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Bars(Follower):
    """Draws a bar for each stage, from half a second on and without a thread of its own."""

    def __init__(self, *, notebook: bool) -> None:
        from rich import file_proxy, progress  # noqa: PLC0415 - takes a tenth of a second to import
        from rich.console import Console  # noqa: PLC0415

        # rich would put its stream in the place of stderr when the first frame is drawn, which a
        # timer's thread may do just while tracing has put another one there
        console = Console(file=sys.stderr)
        above = _AboveBars(sys.stderr, file_proxy.FileProxy(console, sys.stderr))
        self._stderr, self._redirected = above, redirect_stderr(above)
        self._redirected.__enter__()
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
            # what is printed meanwhile stands above the bars, but what goes to a file stays there
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=False,
        )
        self._tasks = {"trace": self._bars.add_task(_STAGES["trace"], total=None)}
        self._words, self._done = "", {"trace": 0}
        self._lock, self._drawn, self._closed = threading.Lock(), False, False
        self._begun = self._frame = time.monotonic()
        # the first stage may take long before it says anything
        self._timer = None if notebook else threading.Timer(BEFORE_BARS, self._draw)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        words = self._words or _STAGES.get(stage, stage)
        if stage not in self._tasks:
            self._bars.update(self._tasks["trace"], visible=stage == "trace")
            self._tasks[stage] = self._bars.add_task(words, total=total)
        elif done < self._done[stage]:  # once more, with a time left of its own
            self._bars.reset(self._tasks[stage], total=total)
        self._done[stage] = done
        self._bars.update(self._tasks[stage], completed=done, total=total, description=words)
        now = time.monotonic()
        if not self._drawn and now - self._begun >= BEFORE_BARS:
            self._draw()
        elif self._drawn and now - self._frame >= BETWEEN_FRAMES:
            self._frame = now
            self._bars.refresh()

    def describe(self, words: str) -> None:
        self._words = words

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._closed = True
            self._redirected.__exit__(None, None, None)
            if self._drawn:
                self._stderr.flush()
                self._bars.stop()

    def _draw(self) -> None:
        with self._lock:
            if not (self._closed or self._drawn):
                self._stderr.drawn = True
                self._bars.start()
                self._drawn = True


@contextmanager
def following(progress: Progress | bool | None, *, stages: bool = True) -> Iterator[Follower]:
    """Shows how far the block is, as long as it runs.

    Args:
        progress: None for bars on terminals and in notebooks, and log lines elsewhere; True for
            bars, or lines on stderr where there can be none; False for log lines alone; or a
            function that is called as ``progress(stage, done, total)``.
        stages: whether each stage has a log line. Without, there is only what `Follower.line` is
            given.

    Raises:
        InputError: for any other ``progress``.
    """
    follower = _follower(progress, stages)
    token = _inside.set(True)
    try:
        yield follower
    finally:
        follower.close()
        _inside.reset(token)


def in_words(seconds: float) -> str:
    """A time such as ``0.4 s``, ``12 s``, ``3 min`` or ``1.5 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rank() -> int:
    """Number of this process among those of `torch.distributed`, or of torchrun before that."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    number = os.environ.get("RANK", "") if "WORLD_SIZE" in os.environ else ""
    return int(number) if number.isdecimal() else 0


def _follower(progress: Progress | bool | None, stages: bool) -> Follower:
    if progress is not None and not isinstance(progress, bool):
        if not callable(progress):
            raise InputError(
                f"progress={shown(progress)}; expected True, False, None (bars on terminals and in "
                "notebooks), or a function that is called as progress(stage, done, total), such as "
                "print."
            )
        return _Called(progress)
    if _inside.get() or rank() > 0:
        return Follower()
    notebook = _in_notebook()
    if progress is not False and (notebook or _on_terminal()):
        return _Bars(notebook=notebook)
    if progress:
        return _Lines(_on_stderr, _on_stderr if stages else None)
    return _Lines(_to_log, _stage_to_log if stages else None)


def _on_terminal() -> bool:
    """Whether a bar can be drawn on stderr, from this thread."""
    able = sys.stderr is not None and sys.stderr.isatty()
    able = able and os.environ.get("TERM") not in ("dumb", "unknown")
    return able and threading.current_thread() is threading.main_thread()


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook that has what rich draws with."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None and (
        importlib.util.find_spec("ipywidgets") is not None
    )


def _to_log(text: str) -> None:
    LOGGER.info("%s", text)


def _stage_to_log(text: str) -> None:
    STAGES.info("%s", text)


def _on_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
