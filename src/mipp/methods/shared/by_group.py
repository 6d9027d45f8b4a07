"""What the consumers of groups take in, measured with as much memory as is allowed.

All in one pass where that fits. Otherwise layer after layer while all batches run side by side, or
in several passes, each over some of the groups.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from mipp import processes, statistics
from mipp.covariance import FEW
from mipp.pieces import runs_side_by_side
from mipp.records import ChannelGraph, Group
from mipp.statistics.few_rows import n_features


def measured_bytes(graph: ChannelGraph, index: int, n_examples: int, *, fisher: bool) -> int:
    """About how many bytes the moments of one consumer take, and its Fisher matrix if wanted.

    Args:
        graph: where the consumer is.
        index: of the consumer.
        n_examples: that are measured.
        fisher: whether that matrix is wanted.
    """
    consumer = graph.consumers[index]
    inputs = n_features(graph, consumer)
    # the window of outputs of a transposed convolution belongs to its Fisher matrix
    outputs = int(np.prod(graph.shapes[consumer.weight])) // inputs if fisher else 0
    seen = consumer.uses * n_examples
    # far fewer rows than features are kept as they are, see `mipp.covariance.Factor`
    stored = int(seen) if FEW * seen <= inputs else inputs
    return 8 * (inputs * stored + outputs**2)


def passes(graph: ChannelGraph, n_bytes: Callable[[int], int], memory: int) -> list[list[Group]]:
    """The groups in passes whose measurements fit into the memory allowed.

    Args:
        graph: of the model.
        n_bytes: of the measurement of a consumer, by its index.
        memory: bytes.
    """
    found = statistics.in_passes([group.consumers for group in graph.groups], n_bytes, memory)
    return [[graph.groups[number] for number in part] for part in found]


def consumers_of(groups: Iterable[Group]) -> list[int]:
    """The indices of all consumers of the groups, in rising order."""
    return sorted({index for group in groups for index in group.consumers})


def one_layer_at_a_time(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Sequence[statistics.Batch],
    memory: int,
    n_passes: int,
) -> bool:
    """Whether layers can be measured one after the other, and that is less than several passes.

    It is not where so few batches have room to wait that they would run again and again.
    """
    if n_passes == 1 or processes.rank_and_size()[1] > 1:
        return False
    if 2 * n_passes <= len(graph.consumers):  # a batch runs again to half of a pass
        first = batches[0]
        n_batches = sum(len(batch) for batch in batches) / len(first)
        if n_batches * statistics.bytes_held(model, first) > memory:
            return False
    return runs_side_by_side(model, batches)


def collect_by_group(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Sequence[statistics.Batch],
    score: Callable[[Group, Mapping[int, statistics.Statistics]], None],
    **options: Any,
) -> str:
    """Measures layer after layer, and forgets what no group needs any more.

    Args:
        model: as in `mipp.statistics.collect_in_order`.
        graph: of the model.
        batches: as there.
        score: called with each group as soon as all of its consumers have been measured, and with
            their measurements by index.
        **options: of `mipp.statistics.collect_in_order`.

    Returns:
        In words which loss was used.
    """
    left = {group.index: group for group in graph.groups}
    seen: dict[int, statistics.Statistics] = {}

    def done(site: statistics.Site, measured: statistics.Statistics) -> None:
        seen[site.index] = measured
        ready = [group for group in left.values() if set(group.consumers) <= seen.keys()]
        for group in ready:
            score(group, {index: seen[index] for index in group.consumers})
            del left[group.index]
        for index in seen.keys() - set(consumers_of(left.values())):
            del seen[index]

    consumers = graph.consumers
    sites = [statistics.site_of(consumers[i], i) for i in consumers_of(graph.groups)]
    return statistics.collect_in_order(model, sites, batches, done, **options)
