"""A plan of blocks, which leaves a model with fewer residual blocks or layers of a transformer.

The design: one record (`mipp.surgery.block_record`) says which blocks go. `removable` finds blocks
by running the model, `block_choice` runs it without them, and `surgery.blocks` takes them out, so
that what is measured is what `apply` returns. A refit runs the copy around its blocks first, when
all names are still those of the whole model, and takes them out afterwards.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from mipp import processes, selection, statistics, surgery, weights
from mipp.errors import InputError
from mipp.options import BlockOptions, Progress
from mipp.pieces import pieces_of
from mipp.planning.any_plan import AnyPlan, Model
from mipp.planning.block_choice import BlockChoice, Search
from mipp.planning.block_options import check_block_refit
from mipp.planning.model_outputs import function_name
from mipp.planning.option_values import read_refit
from mipp.planning.plan_figures import block_metrics
from mipp.problem import Clock
from mipp.progress import following
from mipp.prunable import example, named
from mipp.records import Consumer, Cost
from mipp.removable import removable_blocks
from mipp.report import blocks_notebook, blocks_page
from mipp.surgery.block_record import BlockRecord, BlockSummary
from mipp.surgery.blocks import check_blocks
from mipp.surgery.refit.behind import refit_behind
from mipp.surgery.tensors import check_fingerprint
from mipp.tracing.block_calls import go_around, run_through, weights_in_order


@dataclass(frozen=True, eq=False)
class BlockPlan(AnyPlan[Model, BlockSummary, Cost]):
    """Which whole blocks go. Nothing is changed until `apply`, and then only a copy.

    A plan keeps the model and the calibration batches that it was made with, for `apply`; one that
    is read with `from_json` takes them from the caller. Printed, it has a line for each block, the
    totals, and what is refused and why.

    Attributes:
        record: the plan as plain data.
        model: that the plan is for; None if it was read without.
        batches: calibration batches, for a refit.
        refit: how the layers behind take over; None for not at all.
        seconds: how long it took to ``capture`` (finding blocks) and ``plan`` (the rest).
        outputs: as in `mipp.BlockOptions`.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = mipp.models.build("resnet20", width=0.25, seed=0).eval()
        >>> batches = [torch.randn(8, 3, 32, 32)]
        >>> plan = mipp.plan(net, batches, "units=60%", granularity="block")
        >>> plan.before.units, plan.after.units, len(plan.removed)
        (7, 4, 3)
        >>> small = plan.apply(refit=False)
        >>> sum(p.numel() for p in small.parameters()) == plan.after.params
        True
    """

    record: BlockRecord
    refit: surgery.Refit | None = None
    _read_record = BlockRecord.from_json
    _page = staticmethod(blocks_page)
    _notebook = staticmethod(blocks_notebook)
    _figures = staticmethod(block_metrics)

    @property
    def removed(self) -> tuple[str, ...]:
        """Paths of the blocks that go, in the order in which they were chosen."""
        return tuple(row.name for row in self.record.in_order())

    def _applied(
        self,
        model: Model,
        refit: "surgery.Refit | str | bool | None",
        progress: Progress | bool | None,
        batches: Sequence[statistics.Batch] | None = None,
    ) -> Model:
        gone = self.record.removed
        check_fingerprint(model, self.record.fingerprint)
        check_blocks(model, gone)
        config = self.refit if refit is True else read_refit(refit)
        check_block_refit(config)
        small = surgery.slice_model(model, {})
        if config is not None and gone:
            self._check_batches()
            with following(progress) as report, processes.together(model):
                self._fit(small, model, batches or self.batches, config, report)
        surgery.take_out(small, gone)
        return small

    def _fit(
        self,
        small: nn.Module,
        model: nn.Module,
        batches: Sequence[statistics.Batch],
        config: surgery.Refit,
        report: Progress,
    ) -> None:
        """Fits the layers behind the first block that goes, while the copy runs around all."""
        names = [block.name for block in self.record.removed]
        layers = layers_behind(model, names, batches)
        fitted = itertools.count(1)
        go_around(small, names)
        with statistics.blaming(None):
            refit_behind(
                small, model, layers, pieces_of(model, batches), config, self._seed(),
                self._memory(), advance=lambda: report("refit", next(fitted), len(layers)),
            )  # fmt: skip
        run_through(small, names)
        report("refit", len(layers), len(layers))


def layers_behind(
    model: nn.Module, blocks: Sequence[str], batches: Sequence[statistics.Batch]
) -> list[Consumer]:
    """Layers that are called once, alone use their weight, and come after the first of the blocks.

    Layers inside of a block, and grouped convolutions, are left out.

    Args:
        model: the whole model.
        blocks: paths of blocks.
        batches: calibration batches.
    """
    args, kwargs = example(model, batches)
    order = weights_in_order(model, args, kwargs)
    first = next((n for n, name in enumerate(order) if _inside(name, blocks)), len(order))
    behind = {name for name in order[first:] if not _inside(name, blocks)}
    found, _ = weights.find_layers(model, statistics.Batch(args, kwargs), batches)
    return [
        Consumer(
            name=layer.module,
            kind=layer.kind,
            weight=layer.name,
            bias=layer.bias,
            call=0,
            in_dim=0 if layer.kind in ("conv_transpose", "matmul") else 1,
            out_dim=1 if layer.kind in ("conv_transpose", "matmul") else 0,
            uses=1,
            norm_after=layer.norm_after,
            routed=layer.routed,
        )
        for layer in found
        if layer.name in behind and layer.calls == 1 and layer.groups == 1
    ]


def _inside(name: str, blocks: Sequence[str]) -> bool:
    return any(name.startswith(f"{block}.") for block in blocks)


def block_plans(
    own: Model,
    batches: Sequence[statistics.Batch],
    options: BlockOptions,
    budgets: Sequence[selection.Budget],
    progress: Progress,
    clock: Clock,
) -> Iterator[BlockPlan[Model]]:
    """A plan for each budget; models without a set of blocks are run once for all of them.

    Args:
        own: the model that the plans are for.
        batches: calibration batches.
        options: of the plans.
        budgets: one for each plan.
        progress: called as ``progress("score", done, total)``.
        clock: seconds of each stage.
    """
    found = removable_blocks(own, batches, options.blocks)
    clock.lap("capture")
    names = [block.name for block in found.blocks]
    for pattern in options.protect:
        if not any(named(name, [pattern]) for name in (*names, *(r.name for r in found.refused))):
            raise InputError(f"protect={pattern!r} names no block. Blocks: {', '.join(names)}.")
    protected = [name for name in names if named(name, options.protect)]
    search = Search(own, found, batches, options, progress, protected)
    for budget in budgets:
        choice = search.choose(budget)
        clock.lap("plan")
        yield BlockPlan(
            record=_record(own, choice, search, options, budget),
            model=own,
            batches=batches,
            refit=options.refit,
            seconds=dict(clock.seconds),
            outputs=options.outputs,
        )


def _record(
    model: nn.Module,
    choice: BlockChoice,
    search: Search,
    options: BlockOptions,
    budget: selection.Budget,
) -> BlockRecord:
    found = search.found
    place = {name: n for n, name in enumerate(choice.order)}
    going = [block for block in found.blocks if block.name in place]
    before = replace(search.cost([]), latency=None)
    after = replace(search.cost(going), latency=None)
    words = to_dict(options, budget)
    if choice.latency is not None:
        full, checked, how = choice.latency
        before, after = replace(before, latency=full.ms), replace(after, latency=checked.ms)
        words["latency"] = dict(how)
    rows = tuple(
        BlockSummary(
            name=block.name,
            kind=block.kind,
            residual=block.residual,
            removed=place.get(block.name, -1) + 1,
            nats_alone=choice.alone[block.name],
            nats_then=choice.nats[place[block.name]] if block.name in place else float("nan"),
            macs=block.macs,
            params=block.params,
        )
        for block in found.blocks
    )
    return BlockRecord(
        removed=tuple(block.gone for block in going),
        summary=rows,
        refused=found.refused,
        before=before,
        after=after,
        nats=choice.nats[-1] if choice.nats else 0.0,
        options=words,
        fingerprint=surgery.fingerprint(surgery.state_shapes(model)),
        mipp_version=surgery.installed_version(),
    )


def to_dict(options: BlockOptions, budget: selection.Budget) -> dict[str, Any]:
    """The options as plain JSON values, for the record of a plan."""
    outputs = options.outputs
    named_outputs = {} if outputs is None else {"outputs": function_name(outputs)}
    return {
        **named_outputs,
        "granularity": options.granularity,
        "method": "mipp",
        "budget": str(budget),
        "blocks": list(options.blocks),
        "order": options.order,
        "loss": options.loss,
        "protect": list(options.protect),
        "samples": options.samples,
        "memory": options.memory,
        "score_samples": options.score_samples,
        "refit": None if options.refit is None else asdict(options.refit),
        "seed": options.seed,
    }
