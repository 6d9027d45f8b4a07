"""Build and trace an entry, and note what ops it has."""

import sys
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch._ops import OpOverload

from mipp import statistics
from mipp.errors import GraphError
from mipp.graph.rules.rule import Rule, find_rule, op_name
from mipp.planning import prunable_graph
from mipp.records import ChannelGraph

from .entry import Entry


@dataclass
class Case:
    """An entry, built and traced once for all tests that ask for it.

    ``ops``: name of an op, all elementwise ones under one, -> what its rule says of itself.
    """

    entry: Entry
    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    graph: ChannelGraph | None = None
    error: str = ""
    ops: dict[str, str] = field(default_factory=dict)

    @property
    def batch(self) -> Any:
        """What `mipp.plan` takes."""
        return self.kwargs or (self.args, None)


ELEMENTWISE = "elementwise ops"


def traced(entry: Entry) -> Case:
    """The case of an entry; ``graph`` is what is left after all checks, None if nothing is."""
    args, kwargs = entry.arguments()
    case = Case(entry, entry.built(), args, kwargs)

    def seen(op: OpOverload) -> Rule | None:
        rule = find_rule(op)
        if rule is None:
            case.ops[op_name(op)] = "no rule: what goes in stays"
        else:
            name = ELEMENTWISE if rule.__name__ == "pointwise" else op_name(op)
            case.ops[name] = (rule.__doc__ or "").strip().splitlines()[0].replace("``", "`")
        return rule

    with patch.object(sys.modules["mipp.graph.propagate"], "find_rule", seen):
        try:
            case.graph = prunable_graph(case.model, statistics.read_batches([case.batch], None))
        except GraphError as error:
            case.error = str(error)
    return case
