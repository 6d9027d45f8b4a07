"""Command line: arguments in, tables and JSON out; the work is done by the library."""

from mipp.cli.app import app, main

__all__ = ["app", "main"]
