"""Single keywords of `mipp.plan`, from what users write to what the options hold."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from mipp.checks import shown
from mipp.errors import InputError


def read_protect(protect: Any) -> tuple[str, ...]:
    """Names and patterns of what keeps all units, from one of them or several.

    Raises:
        InputError: anything that is not text; of a module it has the name to look for.
    """
    if protect is None:
        return ()
    names = (protect,) if isinstance(protect, str) else protect
    if not isinstance(names, Iterable) or isinstance(names, nn.Module | type | bytes):
        names = (names,)
    found = []
    for name in names:
        if not isinstance(name, str):
            what = type(name).__name__
            raise InputError(
                f"protect= holds {shown(name)}, of type {what}; expected names of groups or "
                "modules, such as protect=['layer1.conv2', '*attention*']. The name of a module is "
                "the one that model.named_modules() gives it."
            )
        found.append(name)
    return tuple(found)


def check_ranges(options: Any) -> None:
    """Raise `InputError` for numbers that units and single weights have in common."""
    for name, least in (("samples", 1), ("memory", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and not least <= value < 2**63:
            raise InputError(f"{name}={value}; expected a whole number, at least {least}.")


def read_memory(memory: int | str) -> int:
    """Bytes from a number or from text such as ``"4GiB"``."""
    if isinstance(memory, int) and not isinstance(memory, bool):
        return memory
    if isinstance(memory, str) and memory.isdecimal():
        return int(memory)
    for suffix, factor in (("GiB", 2**30), ("MiB", 2**20), ("GB", 10**9), ("MB", 10**6)):
        if isinstance(memory, str) and memory.lower().endswith(suffix.lower()):
            try:
                return int(float(memory[: -len(suffix)]) * factor)
            except (ValueError, OverflowError):
                break
    raise InputError(f"memory={shown(memory)}; expected bytes or text such as '4GiB' or '500MB'.")


def read_budgets(budgets: Any) -> list[Any]:
    """The budgets of `mipp.plans` as a list; raises `InputError` for one that is not in a list."""
    if isinstance(budgets, str | bytes | Mapping) or not isinstance(budgets, Iterable):
        raise InputError(
            f"budgets is {shown(budgets)}; expected a list of budgets, such as ['macs=50%', "
            "'macs=25%']. For a single one use mipp.plan."
        )
    return list(budgets)


def read_progress(progress: Any) -> Callable[[str, int, int], None]:
    """What is called on the way; raises `InputError` for something that cannot be called."""
    if progress is None:
        return lambda _stage, _done, _total: None
    if not callable(progress):
        raise InputError(
            f"progress={shown(progress)}; expected None, or a function that is called as "
            "progress(stage, done, total), such as print."
        )
    called: Callable[[str, int, int], None] = progress
    return called
