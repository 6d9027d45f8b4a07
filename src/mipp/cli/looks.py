"""How text for people looks: colours that mean something, and names that break at their dots."""

import re
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

SHRANK, REFUSED, HELPS, WORSE, QUIET = "green", "yellow", "cyan", "red", "dim"
"""What got smaller; what is not pruned; what would change that; what got worse; the rest."""

_PATH = re.compile(r"(?:[\w.-]+/)+(?P<end>[\w.-]+/[\w.-]+\.py:\d+)")


@dataclass(frozen=True)
class Names:
    """Names of modules, one a line; a longer one goes on after a dot, never inside of a word.

    Attributes:
        names: of layers or groups.
        style: of the text.
    """

    names: tuple[str, ...]
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [line for name in self.names for line in at_dots(name, options.max_width)]
        yield Text("\n".join(lines), style=self.style, overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        parts = [len(part) for name in self.names for part in _parts(name)]
        whole = max(map(len, self.names), default=0)
        return Measurement(min(max(parts, default=0), options.max_width), whole)


def at_dots(name: str, width: int) -> list[str]:
    """The name in lines of at most ``width`` where its dots allow that; further ones indented."""
    lines, line = [], ""
    for part in _parts(name):
        if line.strip() and len(line) + len(part) > width:
            lines.append(line)
            line = "  "
        line += part
    return [*lines, line]


def _parts(name: str) -> list[str]:
    """``model.layers.0.fc`` -> ``model.``, ``layers.``, ``0.``, ``fc``."""
    return re.findall(r"[^. ]+\.?|[. ]", name)


def near_path(text: str) -> str:
    """The text with each path to source code cut to its last folder, which is what one looks for.

    Examples:
        >>> near_path("aten.mean at transformers/models/llama/modeling_llama.py:64")
        'aten.mean at llama/modeling_llama.py:64'
    """
    return _PATH.sub(lambda match: match["end"], text)


def change(before: str, after: str, shrank: bool) -> Text:
    """``64 → 26``, the second number in colour where it is the smaller one."""
    return Text.assemble(
        (f"{before} → ", QUIET if shrank else ""), (after, SHRANK if shrank else "")
    )


def kept(text: str, share: float | None) -> Text:
    """A share of the information: marked where much of it is lost."""
    style = "" if share is None or share >= 0.9 else WORSE if share < 0.5 else REFUSED
    return Text(text, style=style)
