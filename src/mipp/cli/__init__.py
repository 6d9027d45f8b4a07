"""Command line: arguments in, tables and JSON out; the work is done by the library.

The modules of the commands import neither torch nor anything that imports it, so that help is
shown at once; what a command needs is imported when it runs.
"""

from mipp.cli.app import app, main

__all__ = ["app", "main"]
