"""Pruning while training, in rounds to a budget: what the callbacks of all trainers share."""

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mipp import planning, surgery
from mipp.checks import shown
from mipp.errors import BudgetError, FileError, InputError
from mipp.processes import together
from mipp.selection import Budget, parse_budget
from mipp.surgery.keeps import AttributeKeep, AxisKeep, kept_of
from mipp.surgery.kept_record import recorded_axes, recorded_sizes, write_record
from mipp.tracing.guards import unwrap

FORMAT = 1
"""Version of what `Rounds.state` returns."""


class Rounds:
    """Prunes a module in place, in several rounds, the last of which meets the budget.

    Each round removes the same share of what is left: with ``"macs=25%"`` in two rounds half of the
    MACs stay after the first and a quarter after the second. A round that was missed is made up
    for by the next one.

    Attributes:
        done: number of rounds so far.
        history: one entry for each time that something was removed: ``at`` (epochs or steps),
            ``round``, ``macs``, ``params`` and ``units`` of what is left.

    Args:
        batches: as for `mipp.plan`, and the same ones in each round. Under ``torch.distributed``
            each process gives its own.
        budget: of ``macs``, ``params`` or ``units``, shares or amounts: ``"macs=25%"``.
        rounds: number of rounds.
        every: epochs or steps from one round to the next.
        start: epochs or steps before the first round; ``every`` by default.
        refit: whether the weights that stay are fitted after each round.
        options: further settings of `mipp.plan`.

    Raises:
        InputError: numbers below 1, or batches that can be read only once.
        BudgetError: a budget that cannot be read, or of something that rounds cannot share.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> rounds = Rounds([torch.randn(64, 4)], "units=25%", rounds=2)
        >>> for epoch in range(1, 4):
        ...     _ = rounds.after(epoch, net)
        ...     print(net[0].out_features)
        4
        2
        2
    """

    def __init__(
        self,
        batches: Iterable[Any],
        budget: str | Budget,
        *,
        rounds: int = 1,
        every: int = 1,
        start: int | None = None,
        refit: bool = True,
        **options: Any,
    ) -> None:
        start = every if start is None else start
        counts: dict[str, Any] = {"rounds": rounds, "every": every, "start": start}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f"{name}={shown(value)} was given; expected a whole number from 1."
                )
        if iter(batches) is batches:
            raise InputError(
                f"{type(batches).__name__} was given as batches, which can be read only once; "
                "each round reads them. Give a list, or a DataLoader."
            )
        self.budget = parse_budget(budget)
        usable = set(self.budget.bounds) <= {"macs", "params", "units"}
        if not (usable and self.budget.bounds) or self.budget.information is not None:
            raise BudgetError(
                f"The budget {self.budget} cannot be spent in rounds; expected macs, params or "
                "units of the whole model, such as 'macs=25%'."
            )
        self.batches, self.options, self.refit = batches, options, refit
        self.rounds, self.every, self.start = rounds, every, start
        self.done = 0
        self.history: list[dict[str, float]] = []
        self._full: dict[str, float] = {}

    def due(self, count: int) -> int:
        """Number of rounds that are due after so many epochs or steps."""
        return min(max((count - self.start) // self.every + 1, 0), self.rounds)

    def after(
        self, count: int, model: nn.Module, optimizers: Iterable[Optimizer] = ()
    ) -> "planning.Plan[Any] | None":
        """Prunes, if a round is due. All processes have to call this.

        Args:
            count: epochs or steps that were finished.
            model: is pruned in place: modules and parameters stay the same objects.
            optimizers: of the model; they keep the state of what stays.

        Returns:
            What was planned, or None. It is for the model as it was before.

        Raises:
            MippError: as `mipp.plan` and `mipp.Plan.apply` do.
        """
        number = self.due(count)
        if number <= self.done:
            return None
        model = unwrap(model)
        with together(model):
            if not self._full:
                self._full = _cost(model, self.batches, self.options)
            plan = planning.plan(
                model, self.batches, self.bounds(number), progress=False, **self.options
            )
            small = plan.apply(refit=self.refit, progress=False)
        aliases = plan.traced.aliases if plan.traced is not None else {}
        record = plan.record
        surgery.become(model, small, record.kept(), aliases, record.sizes, optimizers)
        self.done = number
        left = {name: float(getattr(plan.after, name)) for name in ("macs", "params", "units")}
        self.history.append({"at": count, "round": number, **left})
        return plan

    def bounds(self, number: int) -> Budget:
        """The budget of a round, as amounts; known from the first round on."""
        share = number / self.rounds
        last = {
            name: value * self._full[name] if is_share else value
            for name, (value, is_share) in self.budget.bounds.items()
        }
        left = {n: self._full[n] * min(v / self._full[n], 1.0) ** share for n, v in last.items()}
        return Budget({name: (value, False) for name, value in left.items()})

    def state(self, model: nn.Module) -> dict[str, Any]:
        """What a checkpoint needs beside the weights, as JSON can hold it."""
        model = unwrap(model)
        return {
            "format": FORMAT,
            "done": self.done,
            "history": list(self.history),
            "full": dict(self._full),
            "axes": [_listed(axis) for axis in recorded_axes(model)],
            "sizes": [asdict(size) for size in recorded_sizes(model)],
        }

    def restore(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Continues after the rounds of a checkpoint, before its weights are loaded.

        Args:
            model: of full size, or pruned just as it was for the checkpoint. It gets the widths
                of the checkpoint, in place; its weights are then to be loaded.
            state: from `state`.

        Raises:
            InputError: a model that was pruned otherwise.
            FileError: a state that another version wrote.
        """
        restore_widths(model, state)
        self.done = int(state["done"])
        self.history = [dict(entry) for entry in state["history"]]
        self._full = dict(state["full"])


def restore_widths(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Gives a full-size model the widths of a checkpoint, in place; see `Rounds.restore`."""
    if state.get("format") != FORMAT:
        raise FileError(
            f"the checkpoint has rounds of format {state.get('format')!r}; this version of mipp "
            f"reads format {FORMAT}. Read it with the version that wrote it."
        )
    model = unwrap(model)
    axes = tuple(
        AxisKeep(a["tensor"], a["dim"], a["size"], tuple(a["kept"])) for a in state["axes"]
    )
    sizes = tuple(AttributeKeep(**size) for size in state["sizes"])
    has = recorded_axes(model)
    if has == axes:
        return
    if has:
        raise InputError(
            "the model was pruned otherwise than the checkpoint, and removed units cannot come "
            "back. Give a freshly built full-size model."
        )
    small = surgery.slice_model(model, kept_of(axes), sizes=sizes)
    surgery.become(model, small, kept_of(axes), sizes=sizes)
    write_record(model, axes, sizes)


def rewrap(wrapper: nn.Module | None) -> None:
    """Sets up a `DistributedDataParallel` again for its pruned module, in place.

    It sorts gradients into buckets by the shapes that it has seen. Other modules are left alone.
    """
    if not isinstance(wrapper, DistributedDataParallel):
        return
    named = (
        "device_ids", "output_device", "dim", "broadcast_buffers", "process_group",
        "find_unused_parameters", "gradient_as_bucket_view", "static_graph",
    )  # fmt: skip
    settings = {name: getattr(wrapper, name) for name in named}
    if wrapper.device_ids is None:
        settings["output_device"] = None
    module, mode = wrapper.module, wrapper.training
    # what the old one has left at the parameters must be gone before there is a new one
    vars(wrapper).pop("reducer", None)
    gc.collect()
    DistributedDataParallel.__init__(wrapper, module, **settings)
    wrapper.train(mode)


@contextmanager
def detached(holder: Any, name: str) -> Iterator[None]:
    """Sets an attribute to None meanwhile, such as a module's reference to its trainer."""
    value = getattr(holder, name)
    setattr(holder, name, None)
    try:
        yield
    finally:
        setattr(holder, name, value)


def _cost(model: nn.Module, batches: Iterable[Any], options: Mapping[str, Any]) -> dict[str, float]:
    """MACs, parameters and units of the whole model, from a plan that removes nothing."""
    shared = ("head_dims", "residual", "samples", "outputs")
    given = {name: options[name] for name in shared if name in options}
    full = planning.plan(model, batches, "units=100%", method="l2", progress=False, **given).before
    return {"macs": full.macs, "params": float(full.params), "units": float(full.units)}


def _listed(axis: AxisKeep) -> dict[str, Any]:
    return asdict(axis) | {"kept": list(axis.kept)}
