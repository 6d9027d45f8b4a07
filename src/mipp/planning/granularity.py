"""From the granularity of a plan to its options."""

from collections.abc import Mapping
from typing import Any, get_args

from mipp.errors import InputError
from mipp.options import BlockOptions, Granularity, Options, WeightOptions
from mipp.planning.block_options import block_options
from mipp.planning.option_values import unit_options, weight_options


def read_options(
    granularity: str, given: Mapping[str, Any]
) -> Options | WeightOptions | BlockOptions:
    """Options from the keywords of `mipp.plan`, short forms included.

    Raises:
        InputError: an unknown granularity or keyword, or a value that does not fit; the text names
            it.
    """
    if granularity not in get_args(Granularity):
        raise InputError(
            f"granularity={granularity!r}; expected one of "
            f"{', '.join(map(repr, get_args(Granularity)))}."
        )
    if granularity == "block":
        return block_options(given)
    return unit_options(**given) if granularity == "unit" else weight_options(granularity, given)
