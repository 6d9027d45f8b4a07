"""One pass over the calibration batches: what each layer takes in, and how finely it matters."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mipp import processes
from mipp.out_of_memory import FreedMemory, give_back
from mipp.records import Consumer
from mipp.statistics.batches import Batch
from mipp.statistics.calling import blaming
from mipp.statistics.loss import Loss, pass_back, settle
from mipp.statistics.recorder import CaptureConfig, Recorder, Site, Statistics
from mipp.tracing.calls import Call, CallHooks, token_mask
from mipp.tracing.guards import measuring, recurrent_gradients
from mipp.tracing.lockstep import Held, Pause, visit_in_order
from mipp.tracing.notes import Key, Notes
from mipp.tracing.sampling import sampled_positions, weight_seed


def _passed_back(batches: Sequence[Batch], config: CaptureConfig, n_samples: int) -> int:
    """How many of the first batches go through the backward pass, in this process."""
    most = config.fisher_samples or min(512, max(64, n_samples / 4))
    wanted, seen = most / processes.rank_and_size()[1], 0
    for number, batch in enumerate(batches):
        if seen >= wanted:
            return number
        seen += len(batch)
    return len(batches)


@processes.raises_on_all_ranks
def collect(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    *,
    loss: Loss | str | None,
    config: CaptureConfig | None = None,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
    notes: Notes | None = None,
    rows_noted: Mapping[Key, float] | None = None,
) -> tuple[list[Statistics], str]:
    """Measures at every site, in one pass over the batches.

    Under ``torch.distributed`` each process gives its own batches, and the sums are merged; batch
    ``i`` of rank ``r`` draws its positions and labels as batch ``i * world_size + r``, so a round-
    robin split gives what one process would measure on all batches. What is raised in one process
    is raised in all.

    Padding that a keyword ``attention_mask`` of shape (batch, length) marks is not measured, in
    layers that run on every token.

    Args:
        model: the model, which is left as it was.
        sites: where to measure.
        batches: of this process.
        loss: how finely outputs matter (see `mipp.statistics.loss`); None measures no Fisher
            information and runs no backward pass.
        config: how much is measured.
        seed: of the positions and labels that are drawn.
        advance: called after each batch (a progress bar).
        notes: where what a refit will need is noted on the way: outputs of layers, and the means of
            norms' inputs.
        rows_noted: layer -> how many rows of all examples are noted.

    Returns:
        The statistics in the order of the sites, and in words which loss was used.

    Raises:
        CalibrationError: values are not finite, or a site never ran or the loss does not depend on
            it.
    """
    config = config or CaptureConfig()
    run = _Run(model, sites, batches, loss, config, seed)
    run.passes(batches, inputs=True, advance=advance, notes=notes, rows_noted=rows_noted or {})
    for recorder in run.recorders:
        recorder.check(with_fisher=loss is not None)
    processes.agree("the loss", [run.how])
    merged = [recorder.merged() for recorder in run.recorders]
    give_back()
    return merged, run.how


def collect_in_order(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    done: Callable[[Site, Statistics], None],
    *,
    loss: Loss | str | None,
    config: CaptureConfig | None = None,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
    memory: float = math.inf,
) -> str:
    """Measures as `collect`, in one process, and holds the moments of one site at a time.

    Gradients are measured first, in the few batches that are passed back. Then all batches run side
    by side: they wait at each site until all of them have been measured there, so that memory is
    that of one site, and of what the forward passes hold between two sites. Where that is more than
    ``memory``, some batches do not wait, and are run from the start to each site.

    Args:
        model: as in `collect`.
        sites: as in `collect`, each with one call.
        batches: as in `collect`.
        done: called with each site, in the order in which they run, before the model goes on.
        loss: as in `collect`.
        config: as in `collect`.
        seed: as in `collect`.
        advance: called after each batch that is passed back, and after each that has ended.
        memory: bytes that forward passes may hold between two sites.

    Returns:
        In words which loss was used.
    """
    run = _Run(model, sites, batches, loss, config or CaptureConfig(), seed)
    run.passes(batches[: run.backward_on], inputs=False)
    waiting: dict[int, Call] = {}
    order: dict[Key, int] = {}

    def running(number: int, pause: Pause[Key]) -> None:
        held = Held()

        def before(call: Call) -> None:
            if call.key in run.by_key:
                order.setdefault(call.key, len(order))
                waiting[number] = call
                pause(call.key, holds=held.at(call.input))

        batch = batches[number].to(run.device)
        with blaming(number), CallHooks(model, before=before, grouped=True):
            model(*batch.args, **batch.kwargs)
        if advance:
            advance()

    def leave(number: int) -> None:
        call = waiting.pop(number)
        run.by_key[call.key].add_inputs(call, number, token_mask(batches[number].kwargs))

    def visit(key: Key, there: Sequence[int]) -> None:
        recorder = run.by_key[key]
        for number in there:
            if number in waiting:
                leave(number)
        recorder.check(with_fisher=loss is not None)
        done(recorder.site, recorder.merged())

    with torch.no_grad(), measuring(model):
        runs = [partial(running, number) for number in range(len(batches))]
        visit_in_order(runs, order, visit, memory=memory, leave=leave)
    for recorder in run.recorders:
        if recorder.positions == 0:
            recorder.check(with_fisher=False)
    return run.how


def bytes_held(model: nn.Module, batch: Batch) -> int:
    """About how many bytes the forward pass of a batch holds at most while it waits at a layer.

    Args:
        model: as in `collect`; it runs once.
        batch: keyword and positional arguments of the model.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    there, held, sizes = batch.to(device), Held(), [0]
    hooks = CallHooks(model, before=lambda call: sizes.append(held.at(call.input)), grouped=True)
    with torch.no_grad(), measuring(model), blaming(0), hooks:
        model(*there.args, **there.kwargs)
    return max(sizes)


class _Run:
    """Recorders of some sites, and passes of the model that they watch.

    Attributes:
        recorders: in the order of the sites.
        by_key: by layer.
        backward_on: how many of the first batches go through the backward pass.
        how: in words which loss was used.
        device: of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        batches: Sequence[Batch],
        loss: Loss | str | None,
        config: CaptureConfig,
        seed: int,
    ) -> None:
        self._model, self._loss, self._seed = model, loss, seed
        self._rank, self._world = processes.rank_and_size()
        sizes = [len(batch) for batch in batches]
        self._n_samples = processes.total("the number of examples", sum(sizes))
        self.backward_on = 0 if loss is None else _passed_back(batches, config, self._n_samples)
        n_fisher = processes.total("the examples passed back", sum(sizes[: self.backward_on]))
        self.recorders = [Recorder(s, config, seed, self._n_samples, n_fisher) for s in sites]
        self.by_key: dict[Key, Recorder] = {(r.site.weight, r.site.call): r for r in self.recorders}
        self.how = "no loss"
        self._chosen: Loss | None = None
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def passes(
        self,
        batches: Sequence[Batch],
        *,
        inputs: bool,
        advance: Callable[[], None] | None = None,
        notes: Notes | None = None,
        rows_noted: Mapping[Key, float] | None = None,
    ) -> None:
        """Runs the batches; ``inputs``: whether inputs are measured, too."""
        seen, noted, freed = 0, rows_noted or {}, FreedMemory()
        with measuring(self._model), recurrent_gradients(self._model):
            for i, whole in enumerate(batches):
                number, batch = i * self._world + self._rank, whole.to(self.device)
                backward, mask = i < self.backward_on, token_mask(batch.kwargs)
                on_norm = None if notes is None else notes.norm_hook(len(batch) / self._n_samples)
                anchor = torch.zeros((), device=self.device, requires_grad=True)

                def after(
                    call: Call, output: Tensor, at: int = i, number: int = number,
                    backward: bool = backward, anchor: Tensor = anchor, mask: Tensor | None = mask,
                    seen: int = seen, size: int = len(batch),
                ) -> Tensor:  # fmt: skip
                    if notes is not None and call.key in noted:
                        draw = weight_seed(self._seed, number, len(self.recorders), at)
                        wanted = noted[call.key]
                        pick = sampled_positions(call, mask, wanted, self._n_samples, draw)
                        pick = pick.sort().values
                        notes.add(call.key, at, call, output, pick, seen, inputs=False)
                    recorder = self.by_key.get(call.key) or self.by_key.get((call.name, None))
                    if recorder is None:
                        return output
                    if backward:
                        output = output + anchor.to(output.dtype)
                    if inputs:
                        recorder.add_inputs(call, number, mask)
                    if backward:
                        recorder.watch_gradient(call, output, number, mask, size)
                    return output

                hooks = CallHooks(self._model, after=after, on_norm=on_norm, grouped=True)
                with blaming(i), torch.set_grad_enabled(backward), hooks:
                    output = self._model(*batch.args, **batch.kwargs)
                seen += len(batch)
                if backward:
                    self._pass_back(output, batch, number)
                freed.check()
                if advance:
                    advance()

    def _pass_back(self, output: Any, batch: Batch, number: int) -> None:
        assert self._loss is not None
        if self._chosen is None:
            self._chosen, self.how = settle(self._loss, output, batch.target)
        generator = torch.Generator().manual_seed((self._seed * 7_919 + number) % 2**63)
        pass_back(self._chosen, output, batch, generator)


def capture(
    model: nn.Module,
    consumers: Mapping[int, Consumer],
    batches: Sequence[Batch],
    *,
    loss: Loss | str | None,
    config: CaptureConfig | None = None,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
    notes: Notes | None = None,
    rows_noted: Mapping[Key, float] | None = None,
    variances: bool = False,
) -> tuple[dict[int, Statistics], str]:
    """Measures every consumer of units in one pass over the batches; see `collect`.

    Args:
        model: the model, which is left as it was.
        consumers: index -> consumer, as the graph lists them.
        batches: of this process.
        loss: how finely outputs matter, None for no Fisher information.
        config: how much is measured.
        seed: of the positions and labels that are drawn.
        advance: called after each batch.
        notes: as in `collect`.
        rows_noted: as in `collect`.
        variances: whether variances alone are wanted, see `Site`.

    Returns:
        The statistics by consumer index, and in words which loss was used.
    """
    sites = [
        replace(site_of(consumer, index), variances=variances)
        for index, consumer in consumers.items()
    ]
    found, how = collect(
        model, sites, batches, loss=loss, config=config, seed=seed, advance=advance,
        notes=notes, rows_noted=rows_noted,
    )  # fmt: skip
    return dict(zip(consumers, found, strict=True)), how


def site_of(consumer: Consumer, index: int) -> Site:
    """The site of a consumer of units."""
    return Site(consumer.name, consumer.weight, consumer.call, index, consumer.routed)


def in_passes(
    needs: Sequence[Collection[int]], n_bytes: Callable[[int], int], memory: int
) -> list[list[int]]:
    """Splits what is to be measured into passes over the batches that fit into memory.

    What alone is larger gets a pass of its own.

    Args:
        needs: sites that each item needs; items of one pass share theirs.
        n_bytes: of the measurement of one site.
        memory: bytes allowed in a pass.

    Returns:
        For each pass the numbers of its items.
    """
    passes: list[list[int]] = []
    room, measured = -1, set[int]()
    for number, sites in enumerate(needs):
        size = sum(n_bytes(site) for site in sites if site not in measured)
        if size > room:
            passes.append([])
            room, measured = memory, set()
            size = sum(n_bytes(site) for site in sites)
        passes[-1].append(number)
        measured |= set(sites)
        room -= size
    return passes
