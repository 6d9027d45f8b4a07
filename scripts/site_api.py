"""What Griffe, which reads the code for the API pages, cannot see by itself.

`mipp.plan` is a function beside a module of the same name, and the docstrings of the two records of
options are put together when they are imported.
"""

import inspect
from typing import Any

from griffe import Extension, Function, Module

from mipp import options

HIDDEN = "mipp.planning.plan"
"""A function that Griffe replaces by the module beside it."""


class Names(Extension):
    """Puts the function back under its public name, and completes docstrings."""

    def __init__(self) -> None:
        super().__init__()
        self._function: Function | None = None

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        """Notes the function; of overloads the last one, which is the implementation."""
        if func.path == HIDDEN:
            self._function = func

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Everything of the package has been read."""
        if pkg.name != "mipp":
            return
        assert self._function is not None, f"{HIDDEN} was not found"
        for module in (pkg["_api"], pkg):  # the latter becomes its parent
            module.set_member("plan", self._function)
        for record in (options.Options, options.WeightOptions):
            docstring = pkg[f"options.{record.__name__}"].docstring
            docstring.value = inspect.getdoc(record)
            docstring.__dict__.pop("parsed", None)
