"""Whole blocks of a transformer go, against neurons and heads at equal MACs.

The block goes without which the calibration examples' next-token distributions change least
(Kullback-Leibler divergence from the whole net's), one after the other. The refit makes each block
that stays, from the first to the last, do the work of those removed behind it: its MLP's last layer
is fitted by least squares so that the residual stream after it is what the whole net's is before
the next block that stays. A block removed at the start has none before it.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from lab.experiment import Rows
from lab.experiments.language_nets import Examples, Subject, log_probabilities, quality
from lab.tables import TextTable, spread
from mipp import graph

RIDGE = 1e-3
"""On the change of the weights, as a share of the mean of the inputs' second moments."""


def measured(it: Subject, seed: int) -> dict[str, Any]:
    """Blocks removed one after the other, up to half of them (one at least), and MIPP's widths."""
    data = it.calibration(seed)
    n_blocks = len(blocks(it.model))
    order, divergences = order_of(it.model, data, n_blocks // 2)
    before = macs(it.model, data)
    found: dict[str, Any] = {"order": order, "divergences": divergences}
    shares = []
    for n in range(1, len(order) + 1):
        bare = without(it.model, order[:n])
        shares.append(macs(bare, data) / before)
        fitted = refitted(it.model, order[:n], data)
        found[str(n)] = {
            "macs": shares[-1],
            "blocks": {"none": it.quality(bare), "refit": it.quality(fitted)},
        }
    budgets = [f"macs={100 * share:.6f}%" for share in shares]
    plans = mipp.plans(it.model, data, budgets, seed=seed)
    for n, plan in enumerate(plans, 1):
        small, cut = plan.apply(refit=True), plan.apply(refit=False)
        found[str(n)]["units"] = {
            "none": it.quality(cut),
            "refit": it.quality(small),
            "macs": plan.after.macs / plan.before.macs,
            "widths": {name: len(units) for name, units in plan.keep.items()},
        }
    return found


def blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a GPT-2 or a Llama of transformers."""
    place = "transformer.h" if hasattr(model, "transformer") else "model.layers"
    found = model.get_submodule(place)
    assert isinstance(found, nn.ModuleList)
    return found


def without(model: nn.Module, gone: Sequence[int]) -> nn.Module:
    """A copy without the blocks of these numbers."""
    small: Any = copy.deepcopy(model)
    place = "transformer.h" if hasattr(small, "transformer") else "model.layers"
    stay = [block for i, block in enumerate(blocks(small)) if i not in gone]
    small.set_submodule(place, nn.ModuleList(stay))
    small.config.num_hidden_layers = len(stay)
    return small


def order_of(model: nn.Module, data: Examples, number: int) -> tuple[list[int], list[float]]:
    """Which blocks go first, and the divergence in nats a token once each is gone, too."""
    wanted = [log_probabilities(model, batch) for batch in data]
    gone: list[int] = []
    divergences: list[float] = []
    for _ in range(number):
        left = [i for i in range(len(blocks(model))) if i not in gone]
        found = {i: quality(without(model, [*gone, i]), data, wanted)["divergence"] for i in left}
        least = min(found, key=lambda i: found[i])
        gone.append(least)
        divergences.append(found[least])
    return gone, divergences


def macs(model: nn.Module, data: Examples) -> float:
    """Multiply-accumulates for the first batch."""
    return graph.cost(graph.trace(model, (), kwargs=data[0])).macs


def refitted(model: nn.Module, gone: Sequence[int], data: Examples) -> nn.Module:
    """A copy without these blocks, whose others do their work."""
    small = without(model, gone)
    stay = [i for i in range(len(blocks(model))) if i not in gone]
    ends = [*(i - 1 for i in stay[1:]), len(blocks(model)) - 1]
    for block, end in zip(blocks(small), ends, strict=True):
        _fit(small, block, model, blocks(model)[end], data)
    return small


@torch.no_grad()
def _fit(
    small: nn.Module, block: nn.Module, whole: nn.Module, end: nn.Module, data: Examples
) -> None:
    """Fits the block's last layer, so that the stream after it is the one after ``end``."""
    mlp: Any = block.mlp
    last = mlp.down_proj if hasattr(mlp, "down_proj") else mlp.c_proj
    moments: Tensor | float = 0.0
    products: Tensor | float = 0.0
    for batch in data:
        taken: dict[str, Tensor] = {}
        handles = [
            last.register_forward_hook(_keeping(taken, "inputs", of_input=True)),
            block.register_forward_hook(_keeping(taken, "stream")),
            end.register_forward_hook(_keeping(taken, "wanted")),
        ]
        given = {name: value for name, value in batch.items() if name != "labels"}
        try:
            whole(**given, use_cache=False)
            small(**given, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        counts = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        x = taken["inputs"][counts].double()
        if last.bias is not None:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        moments = moments + x.T @ x
        products = products + x.T @ (taken["wanted"] - taken["stream"])[counts].double()
    assert isinstance(moments, Tensor)
    ridge = RIDGE * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
    change = torch.linalg.solve(moments + ridge, products).float()
    n_inputs = taken["inputs"].shape[-1]
    weight = change[:n_inputs]
    last.weight += weight.T if isinstance(last, nn.Linear) else weight
    if last.bias is not None:
        last.bias += change[-1]


def _keeping(taken: dict[str, Tensor], name: str, *, of_input: bool = False) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        found = args[0] if of_input else output
        taken[name] = found[0] if isinstance(found, tuple) else found

    return hook


def tables(name: str, rows: Rows) -> list[TextTable]:
    """A row for each number of blocks."""
    if not rows:
        return []
    lines = []
    for n in (key for key in rows[0] if key.isdigit()):
        cells = [
            spread([row[n][what][how]["divergence"] for row in rows], 1, 3)
            for how in ("none", "refit")
            for what in ("blocks", "units")
        ]
        lines.append([n, str(len(rows)), spread([rows[0][n]["macs"]]) + " %", *cells])
    header = ["blocks gone", "draws", "MACs left", "blocks", "mipp", "blocks, refit", "mipp, refit"]
    return [
        TextTable(f"{name}, divergence in nats a token, whole blocks against widths", header, lines)
    ]
