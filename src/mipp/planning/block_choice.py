"""Which blocks go: those whose absence costs the fewest nats for what it saves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mipp import selection, statistics
from mipp.errors import BudgetError, SurgeryError
from mipp.options import BlockOptions, Progress
from mipp.planning.block_losses import Losses
from mipp.planning.block_speed import BlockSpeed
from mipp.planning.runtimes import Timed
from mipp.prunable import example
from mipp.records import Cost, Refusal
from mipp.removable import Block, Removable, difference


@dataclass(frozen=True)
class BlockChoice:
    """The blocks that go.

    Attributes:
        order: Their names, the first to go first.
        nats: Lost after each of them.
        alone: Nats lost with each block of the model alone, by name.
        latency: Of the whole model, of the small one, and how both were measured; None where no
            budget asks for it.
    """

    order: tuple[str, ...]
    nats: tuple[float, ...]
    alone: Mapping[str, float]
    latency: tuple[Timed, Timed, Mapping[str, Any]] | None = None


class Search:
    """The choice of blocks for budgets.

    Args:
        model: the whole model.
        found: its blocks.
        batches: calibration batches.
        options: of the plan.
        progress: as in `Losses`.
        protected: names of blocks that stay.

    Attributes:
        found: the blocks without which the answers are finite.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Removable,
        batches: Sequence[statistics.Batch],
        options: BlockOptions,
        progress: Progress,
        protected: Sequence[str] = (),
    ) -> None:
        self._model, self._batches, self._options = model, batches, options
        self._losses = Losses(model, batches, options, progress)
        n = sum(block.name not in protected for block in found.blocks)
        self._losses.total = n if options.order == "ordered" else n * (n + 1) // 2
        self._alone = {block.name: self._losses([block.gone]) for block in found.blocks}
        self.found = _with_finite_answers(found, self._alone)
        self._free = [block for block in self.found.blocks if block.name not in protected]
        self._speed: BlockSpeed | None = None

    def choose(self, budget: selection.Budget) -> BlockChoice:
        """The blocks that go, so that the budget is met.

        Raises:
            BudgetError: it is not met without all blocks that may go.
            SurgeryError: the model without the blocks computes something else than the model that
                goes around them, or answers that are not finite.
        """
        if "latency" in budget.bounds and self._speed is None:
            self._speed = BlockSpeed(
                self._model, self.found.blocks, self._batches, self._options.latency
            )
        limits = budget.limits(self.cost([]))
        # whether a latency can be met is only known once it is measured
        self._check_reachable(budget, {n: m for n, m in limits.items() if n != "latency"})
        going = self._with_more(limits, [])
        times = None
        if self._speed is not None and "latency" in limits:
            going, times = self._in_time(self._speed, limits, going)
        self._check_same(going)
        nats = tuple(self._losses([b.gone for b in going[: n + 1]]) for n in range(len(going)))
        if not all(map(math.isfinite, nats)):
            raise _not_alike(going, "the answers are not finite")
        return BlockChoice(tuple(b.name for b in going), nats, self._alone, times)

    def cost(self, going: Sequence[Block]) -> Cost:
        """Cost of the model without blocks; its latency as the single blocks say."""
        found, gone = self.found, {block.name for block in going}
        time = None
        if self._speed is not None:
            time = self._speed.full.ms - sum(self._speed.saved[name] for name in gone)
        return Cost(
            macs=found.macs - sum(block.macs for block in going),
            params=found.params_without(gone),
            units=len(found.blocks) - len(going),
            latency=time,
        )

    def _with_more(self, limits: Mapping[str, float], going: Sequence[Block]) -> list[Block]:
        """Blocks that go, and more until the limits are met.

        The least loss for what is saved goes first. By the times of single blocks a latency can
        seem out of reach, and be met by several together: then one more goes, and the caller
        measures.
        """
        full, going = self.cost([]), list(going)
        if self._met(limits, going):
            return going
        sure = {name: limit for name, limit in limits.items() if name != "latency"}
        wanted = limits if self._met(limits, self._free) else sure

        def price(block: Block, base: Sequence[Block]) -> tuple[bool, float]:
            without, to = self.cost([*base, block]), self.cost(base)
            saved = 0.0
            for name, limit in limits.items():
                here = getattr(to, name)
                need = max(here - limit, 0)
                saved += min(here - getattr(without, name), need) / getattr(full, name)
            before = self._losses([b.gone for b in base])
            lost = self._losses([b.gone for b in (*base, block)]) - before
            if saved <= 0:
                return True, lost  # after all that save something
            # what loses nothing, or less than nothing, is best whatever it saves
            return False, lost / saved if lost > 0 else lost * saved

        ranked = sorted(self._free, key=lambda block: price(block, []))
        while left := [block for block in ranked if block not in going]:
            if self._options.order == "greedy":
                left = sorted(left, key=lambda block: price(block, going))
            going.append(left[0])
            if self._met(wanted, going):
                break
        return going

    def _in_time(
        self, speed: BlockSpeed, limits: Mapping[str, float], going: list[Block]
    ) -> tuple[list[Block], tuple[Timed, Timed, Mapping[str, Any]]]:
        """More blocks until the real model is fast enough."""
        target = limits["latency"]
        while True:
            found = speed.time_without([block.gone for block in going])
            over = found.ms - target
            if over <= 0:
                return going, (speed.full, found, speed.describe(found))
            if len(going) == len(self._free):
                raise BudgetError(
                    f"A latency of {target:.4g} ms was asked for; without all {len(going)} blocks "
                    f"that may go{self._kept()} the model takes {found.ms:.4g} ms. Ask for more."
                )
            known = self.cost(going).latency
            assert known is not None
            lower = known - max(over, 1e-6 * abs(known))
            going = self._with_more({**limits, "latency": lower}, going)

    def _met(self, limits: Mapping[str, float], going: Sequence[Block]) -> bool:
        cost = self.cost(going)
        # sums of shares can be off by a rounding error
        return all(getattr(cost, n) <= limit * (1 + 1e-9) for n, limit in limits.items())

    def _check_reachable(self, budget: selection.Budget, limits: Mapping[str, float]) -> None:
        if self._met(limits, self._free):
            return
        full, least = self.cost([]), self.cost(self._free)
        known = ", ".join(
            f"{name}={getattr(least, name):,.6g} ({getattr(least, name) / getattr(full, name):.1%})"
            for name in limits
        )
        raise BudgetError(
            f"The budget {budget} cannot be reached: without all {len(self._free)} blocks that may "
            f"go{self._kept()} {known} is left. Ask for more, or prune units, too "
            "(granularity='unit')."
        )

    def _kept(self) -> str:
        """How many blocks ``protect=`` keeps, for error texts."""
        kept = len(self.found.blocks) - len(self._free)
        return f" (protect= keeps {kept})" if kept else ""

    def _check_same(self, going: Sequence[Block]) -> None:
        args, kwargs = example(self._model, self._batches)
        why = difference(self._model, [block.gone for block in going], args, kwargs)
        if why:
            raise _not_alike(going, why)


def _not_alike(going: Sequence[Block], why: str) -> SurgeryError:
    return SurgeryError(
        f"Without {', '.join(block.name for block in going)} together, which can each go alone: "
        f"{why}. Keep one of them with protect=."
    )


def _with_finite_answers(found: Removable, alone: Mapping[str, float]) -> Removable:
    """The blocks without which the answers are finite; the others are refused."""
    wild = [block for block in found.blocks if not math.isfinite(alone[block.name])]
    more = (Refusal(b.name, 1, "without it the model's answers are not finite") for b in wild)
    return replace(
        found,
        blocks=tuple(block for block in found.blocks if block not in wild),
        refused=(*found.refused, *more),
    )
