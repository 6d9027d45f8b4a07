"""What users name as ``package.module:attribute``, from the current folder or installed."""

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
    """What the user's code returns; its errors are an `InputError` that names it."""
    try:
        return make()
    except MippError:
        raise
    except Exception as error:
        raise InputError(
            f"{option} {reference} failed with {said(error)}. Run again with --debug to see where."
        ) from error


def package(name: str, option: str) -> Any:
    """An optional package; raises `InputError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for another version of torch fails with a RuntimeError
        raise InputError(
            f"{option} needs the package {name}, which cannot be imported: {said(error)}. "
            f"Install it (pip install {name}), in a version that fits this torch."
        ) from error


def said(error: Exception) -> str:
    """An error of other people's code, to go into a sentence."""
    return f"{type(error).__name__}: {error}".rstrip(" .")
