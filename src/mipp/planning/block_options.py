"""From what users write to the options and the budget of a plan of blocks."""

from collections.abc import Mapping
from typing import Any, get_args

from mipp import selection
from mipp.checks import shown
from mipp.errors import BudgetError, InputError
from mipp.options import BlockOptions, Options, Order, WeightOptions
from mipp.planning.option_values import read_common, read_protect, read_refit
from mipp.surgery import Refit


def block_options(given: Mapping[str, Any]) -> BlockOptions:
    """Options of blocks from the keywords of `mipp.plan`.

    Raises:
        InputError: an unknown keyword, or a value that does not fit.
    """
    known = set(BlockOptions.__dataclass_fields__) - {"granularity"}
    unknown = sorted(set(given) - known)
    of_others = {*Options.__dataclass_fields__, *WeightOptions.__dataclass_fields__, "confidence"}
    if unknown:
        why = "has no use for" if set(unknown) <= of_others else "has no option"
        raise InputError(
            f"granularity='block' {why} {', '.join(unknown)}; its options are "
            f"{', '.join(sorted(known))}."
        )
    read = dict(given)
    read_common(read)
    read["blocks"] = read_protect(read.get("blocks", ()), "blocks")
    if read.get("order", "greedy") not in get_args(Order):
        raise InputError(f"order={shown(read['order'])}; expected 'greedy' or 'ordered'.")
    if read.get("loss", "auto") not in ("auto", "categorical", "gaussian"):
        raise InputError(
            f"loss={shown(read['loss'])}; of blocks it says how two answers are compared: expected "
            "'auto', 'categorical' or 'gaussian'."
        )
    count = read.get("score_samples", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"score_samples={count!r}; expected a whole number, at least 1.")
    if "refit" in read:
        read["refit"] = read_refit(read["refit"])
        check_block_refit(read["refit"])
    return BlockOptions(**read)


def check_block_refit(refit: Refit | None) -> None:
    """Raise `InputError` for a `mipp.Refit` that blocks have no use for."""
    if refit is not None and refit.fits == "scale":
        raise InputError(
            "Refit has fits='scale': a factor for each channel that a layer reads is for channels "
            "that are gone. Behind blocks use fits='weights' or 'bias'."
        )


def block_budget(budget: Any) -> selection.Budget:
    """The budget as a record.

    Raises:
        BudgetError: it cannot be read, or is one that blocks cannot meet.
        InputError: there is none.
    """
    if budget is None:
        raise InputError(
            "No budget was given. Say how much may be left, such as budget='macs=60%', or "
            "'units=75%' for three quarters of the blocks."
        )
    wanted = selection.parse_budget(budget)
    if wanted.information is not None or wanted.parts is not None or not wanted.bounds:
        raise BudgetError(
            f"granularity='block' was given the budget {str(wanted)!r}; expected macs=, params=, "
            "latency= or units= (blocks) of the whole model. What protect= names stays."
        )
    return wanted
