"""What Griffe, which reads the code for the API pages, cannot see by itself.

The docstrings of the records of options are put together when they are imported, and their
defaults stand inside of calls.
"""

import inspect
from dataclasses import MISSING, Field, fields
from typing import Any

from griffe import Extension, Module

from mipp import options


class Docstrings(Extension):
    """Completes the docstrings of the records of options, and their defaults."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Everything of the package has been read."""
        if pkg.name != "mipp":
            return
        for record in (options.Options, options.WeightOptions, options.BlockOptions):
            known = pkg[f"options.{record.__name__}"]
            known.docstring.value = inspect.getdoc(record)
            known.docstring.__dict__.pop("parsed", None)
            for one in fields(record):
                for owner in (known, pkg["options._Measured"], pkg["options._Common"]):
                    if one.name in owner.members:
                        owner.members[one.name].value = default(one)


def default(one: Field[Any]) -> str:
    """The default of a field, as one would write it."""
    if one.default is not MISSING:
        return repr(one.default)
    assert one.default_factory is not MISSING
    return f"{type(one.default_factory()).__name__}()"
