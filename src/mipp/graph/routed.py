"""Layers that get as many positions as values say, such as the experts of a mixture."""

from collections.abc import Mapping
from dataclasses import replace

from mipp.records import ChannelGraph


def with_positions(graph: ChannelGraph, positions: Mapping[str, float]) -> ChannelGraph:
    """The graph with costs and uses of routed layers for so many positions an example.

    ``positions``: name of a layer (of a graph as `trace` gives it) -> positions for one example, in
    the mean over some. Layers that are not named count one.
    """
    return replace(
        graph,
        macs=tuple(
            replace(term, coefficient=term.coefficient * positions.get(term.name, 1.0))
            if term.routed
            else term
            for term in graph.macs
        ),
        consumers=tuple(
            replace(consumer, uses=positions.get(_layer(consumer.name), 1.0))
            if consumer.routed
            else consumer
            for consumer in graph.consumers
        ),
    )


def routed_layers(graph: ChannelGraph) -> frozenset[str]:
    """Names of the layers of which nobody knows how many positions they get."""
    return frozenset(term.name for term in graph.macs if term.routed)


def _layer(consumer: str) -> str:
    """Without the number of the call."""
    return consumer.partition("#")[0]
