"""Writes docs/reference/command-line.md from the commands' own help texts.

Run as ``python scripts/write_command_line.py``, after a change of a command or an option.
"""

import html
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from mipp.cli.app import app
from mipp.cli.help_pages import EXAMPLES

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "command-line.md"

HEAD = """# Command line

Made from the help texts: `mipp COMMAND --help` prints the same. [Exit codes](exit-codes.md) says
what the status of a command means, and [the guide](../guides/command-line.md) goes the whole way.

"""


def page() -> str:
    """The text of the page, without the commands that the help does not list."""
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    command.commands = {name: one for name, one in command.commands.items() if not one.hidden}
    command.epilog = None
    for name, one in command.commands.items():
        # typer would cut it off after a few words
        one.short_help = (one.help or "").partition("\n\n")[0].replace("\n", " ")
        one.epilog = "\n".join(["**Examples**:\n", "```bash", *EXAMPLES[name], "```"])
    context = typer.Context(command, info_name="mipp")
    text = get_docs_for_click(obj=command, ctx=context, name="mipp")
    text = html.unescape(text.removeprefix("# `mipp`\n\n"))
    return f"{HEAD}{text.rstrip()}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
