"""GRAIL's recipe, written from its paper, apart from the refit of mipp that it is compared with.

GRAIL (arXiv 2602.23795): units are chosen by the size of their weights. One pass of the original
sums the Gram matrix G = E[h h'] of the inputs h of each layer that reads pruned units. The linear
map that restores all inputs from those that stay has a closed form, B = G[:, S] inverse(G[S, S] +
ridge I), with the ridge relative to the mean of the diagonal, and is merged into the layer: W B.
Of convolutions h are the channels at each position, so the kernel cells share B.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from mipp.records import AxisKey

RIDGE = 1e-3
"""As a share of the mean of the diagonal of G."""


def grail(
    model: nn.Module,
    batches: list[Any],
    budget: str,
    forward: Callable[[nn.Module, Any], Tensor],
    **options: Any,
) -> nn.Module:
    """The pruned model: widths by the sizes of weights, then one pass and the merged maps."""
    plan = mipp.plan(model, batches, budget, method="l2", **options)
    small = plan.apply(refit=False)
    assert plan.traced is not None
    kept = plan.record.kept()
    layers = {}
    for consumer in plan.traced.consumers:
        layer = model.get_submodule(consumer.weight.rpartition(".")[0])
        alone = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if consumer.in_axis in kept and consumer.in_dim == 1 and alone:
            layers[consumer.weight] = layer, torch.as_tensor(kept[consumer.in_axis])
    grams = grams_of(model, {name: layer for name, (layer, _) in layers.items()}, batches, forward)
    with torch.no_grad():
        for name, (layer, stay) in layers.items():
            merged = torch.einsum(
                "oc...,ck->ok...", layer.weight.float(), restoring(grams[name], stay)
            )
            outputs = kept.get(AxisKey(name, 0))
            weight = small.get_parameter(name)
            weight.copy_(merged if outputs is None else merged[torch.as_tensor(outputs)])
    return small


def grams_of(
    model: nn.Module,
    layers: dict[str, nn.Module],
    batches: list[Any],
    forward: Callable[[nn.Module, Any], Tensor],
) -> dict[str, Tensor]:
    """Second moments of the inputs of layers, summed over all positions of one pass."""
    grams: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].movedim(1, -1) if isinstance(layer, nn.Conv2d) else args[0]
            rows = x.flatten(0, -2).float()
            grams[name] = grams.get(name, 0) + rows.T @ rows

        return hook

    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                forward(model, batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return grams


def restoring(gram: Tensor, stay: Tensor) -> Tensor:
    """The map, shape ``(inputs, those that stay)``, from the inputs that stay to all of them."""
    small = gram[stay][:, stay].double()
    ridge = RIDGE * small.diagonal().mean() * torch.eye(len(stay), dtype=torch.float64)
    return torch.linalg.solve(small + ridge, gram[stay].double()).T.float()
