"""What users name on the command line in code of their own, and optional packages.

The former is ``package.module:attribute``, from the current folder or installed.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mipp.errors import InputError, MippError

T = TypeVar("T")


def find(reference: str, option: str) -> Any:
    """The object that ``package.module:attribute`` names.

    Raises:
        InputError: no such module or attribute, or the module fails while it is imported.
    """
    module_name, _, path = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script, unlike python -m, does not look here by itself
        sys.path.insert(0, here)
    if not module_name or not path:
        raise InputError(f"{option} {reference}: expected package.module:name.")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:
        failed = InputError(
            f"{option} {reference}: importing {module_name} failed with {said(error)}. It is "
            f"looked for in the current folder ({here}) and among the installed packages."
        )
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name is not None and f"{module_name}.".startswith(f"{name}."):
            raise failed from None  # a wrong name is wrong usage; what fails in a module is not
        raise failed from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(
                f"{option} {reference}: {module_name} has no {path}. It has "
                f"{', '.join(n for n in vars(found) if not n.startswith('_')) or 'nothing'}."
            )
        found = getattr(found, name)
    return found


def called(make: Callable[[], T], reference: str, option: str) -> T:
    """What the user's code returns; its errors become an `InputError` that names it."""
    try:
        return make()
    except MippError:
        raise
    except Exception as error:
        raise InputError(
            f"{option} {reference} failed with {said(error)}. Run again with --debug to see where."
        ) from error


def package(name: str, option: str, *, install: str | None = None) -> Any:
    """An optional package; raises `InputError` if it is not installed.

    Args:
        name: with which it is imported.
        option: of the command line, for the error.
        install: its name in the package index, where that is another.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for another version of torch fails with a RuntimeError
        raise InputError(
            f"{option} needs the package {install or name}, which cannot be imported: "
            f"{said(error)}. Install it (pip install {install or name}), in a version that fits "
            "this torch."
        ) from error


def said(error: Exception) -> str:
    """An error of other people's code, as part of a sentence."""
    return f"{type(error).__name__}: {error}".rstrip(" .")


def read_shape(text: str) -> tuple[int, ...]:
    """The shape that ``--input`` gives; raises `InputError` where it is none."""
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise InputError(f"--input {text}: expected whole numbers with commas, such as 3,224,224.")
    return sizes
