"""What Griffe, which reads the code for the API pages, cannot see by itself.

`mipp.plan`, `mipp.tune` and `mipp.information_kept` are functions beside modules of the same names.
The docstrings of the records of options are put together when they are imported, and their defaults
stand inside of calls.
"""

import inspect
from dataclasses import MISSING, Field, fields
from typing import Any

from griffe import Extension, Function, Module

from mipp import options

HIDDEN = "mipp.planning.plan"
"""A function that Griffe replaces by the module beside it."""
INSIDE = ("tune", "information_kept")
"""Modules of `mipp.planning` that it shows in place of the functions of these names in them."""


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
        functions = {name: pkg[f"planning.{name}.{name}"] for name in INSIDE}
        for module in (pkg["_api"], pkg):  # the latter becomes its parent
            module.set_member("plan", self._function)
            for name in INSIDE:
                module.set_member(name, functions[name])
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
