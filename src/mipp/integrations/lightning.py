"""Pruning while Lightning trains: ``lightning`` or ``pytorch_lightning``, whichever is installed.

Examples:
    ```python
    import lightning as L

    from mipp.integrations.lightning import PruneCallback

    prune = PruneCallback(batches, "macs=25%", rounds=3, every=2, target="net")
    trainer = L.Trainer(max_epochs=10, callbacks=[prune])
    trainer.fit(module, loader)
    ```
"""

import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from mipp.errors import FileError, InputError
from mipp.integrations.rounds import Rounds, detached, restore_widths, rewrap
from mipp.selection import Budget


def _callback_class() -> Any:
    """That of the package which the user has imported, if both are installed; else `object`."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    if names[1] in sys.modules and "lightning" not in sys.modules:
        names.reverse()
    for name in names:
        try:
            return import_module(f"{name}.callbacks").Callback
        except ImportError:
            continue
    return object


if TYPE_CHECKING:
    Callback = object
else:
    Callback = _callback_class()

STATE = "mipp.integrations.lightning.PruneCallback"
"""Key of the callback's state in a checkpoint."""


class PruneCallback(Callback):
    """Prunes a module in rounds while it is trained, until the budget is met.

    The module is pruned in place after a training epoch, or after a step. The optimizers keep the
    state of what stays, learning rates and schedulers are not touched. A checkpoint has the indices
    that were kept, so that ``trainer.fit(module, ckpt_path=...)`` continues with a freshly built
    full-size module. With several processes (DDP) all keep the same units; each measures its own
    batches.

    Attributes:
        rounds: counts the rounds; ``rounds.history`` has the cost after each.

    Args:
        batches: what the pruned module takes, as for `mipp.plan`; read again in every round.
        budget: of ``macs``, ``params`` or ``units``: ``"macs=25%"``.
        rounds: number of rounds.
        every: epochs (or steps) from one round to the next.
        start: epochs (or steps) before the first round; ``every`` by default.
        unit: whether these are epochs or optimizer steps.
        target: name of the submodule that is pruned; empty for the whole LightningModule, whose
            ``forward`` then takes the batches.
        refit: whether the weights that stay are fitted after each round.
        options: further settings of `mipp.plan`.

    Raises:
        InputError: a number below 1, batches that can be read only once, no such ``target``, or a
            trainer that keeps copies or parts of the full-size weights elsewhere.
        BudgetError: a budget that rounds cannot share.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        budget: str | Budget,
        *,
        rounds: int = 1,
        every: int = 1,
        start: int | None = None,
        unit: Literal["epoch", "step"] = "epoch",
        target: str = "",
        refit: bool = True,
        **options: Any,
    ) -> None:
        if Callback is object:
            raise InputError(
                "neither lightning nor pytorch_lightning can be imported; PruneCallback is for "
                "their Trainer. Install one of them: pip install lightning."
            )
        super().__init__()
        if unit not in ("epoch", "step"):
            raise InputError(f"unit={unit!r} was given; expected 'epoch' or 'step'.")
        self.unit, self.target = unit, target
        self.rounds = Rounds(
            batches, budget, rounds=rounds, every=every, start=start, refit=refit, **options
        )
        self._state: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint."""
        return STATE

    def state_dict(self) -> dict[str, Any]:
        """Rounds that were made and indices that were kept, as JSON can hold them."""
        return self._state

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Checks the trainer, and makes a checkpoint's widths come before its weights."""
        module = self._module(pl_module)
        _check_trainer(trainer)
        load_own = pl_module.on_load_checkpoint

        def load_widths_first(checkpoint: Mapping[str, Any]) -> None:
            found = checkpoint.get("callbacks", {}).get(STATE)
            if found is not None:
                with _alone(pl_module):
                    self.rounds.restore(module, found)
                self._state = found
            load_own(checkpoint)

        pl_module.on_load_checkpoint = load_widths_first

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """The module's own hook is back, for it must not be copied with the module."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Same."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:  # noqa: ARG002
        """Prunes if a round is due."""
        if self.unit == "step":
            self._prune(trainer, pl_module, trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Prunes if a round is due."""
        if self.unit == "epoch":
            self._prune(trainer, pl_module, trainer.current_epoch + 1)

    def _prune(self, trainer: Any, pl_module: Any, count: int) -> None:
        module = self._module(pl_module)
        with _alone(pl_module):
            plan = self.rounds.after(count, module, trainer.optimizers)
            if plan is None:
                return
            self._state = self.rounds.state(module)
        rewrap(trainer.strategy.model)

    def _module(self, pl_module: Any) -> nn.Module:
        try:
            module: nn.Module = pl_module.get_submodule(self.target)
        except AttributeError:
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise InputError(
                f"target={self.target!r} was given, and {type(pl_module).__name__} has no such "
                f"module; expected the name of one, such as one of: {children}."
            ) from None
        return module


def load(module: Any, path: str | Path, *, target: str = "") -> None:
    """Loads the weights of a checkpoint that was written after some rounds, in place.

    Args:
        module: a freshly built LightningModule of full size.
        path: of the checkpoint.
        target: as in `PruneCallback`.

    Raises:
        FileError: a checkpoint without rounds.
        InputError: a module that was pruned otherwise.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    found = checkpoint.get("callbacks", {}).get(STATE)
    if found is None:
        raise FileError(
            f"{path} has no state of PruneCallback: the model was not pruned when it was written. "
            f"Use {type(module).__name__}.load_from_checkpoint."
        )
    restore_widths(module.get_submodule(target), found)
    module.load_state_dict(checkpoint["state_dict"])


def _alone(pl_module: Any) -> Any:
    """The module without its trainer, which is not to be copied with it."""
    return detached(pl_module, "_trainer") if pl_module._trainer is not None else nullcontext()  # noqa: SLF001


def _check_trainer(trainer: Any) -> None:
    """Raises `InputError` where weights of full size are kept outside of the module."""
    strategy = type(trainer.strategy).__name__
    if any(word in strategy for word in ("FSDP", "DeepSpeed", "ModelParallel", "XLA")):
        raise InputError(
            f"{strategy} was given, which splits parameters over processes; expected a single "
            "device or 'ddp'. Prune first, then train the small module with it."
        )
    for callback in trainer.callbacks:
        if "WeightAverag" in "".join(kind.__name__ for kind in type(callback).__mro__):
            raise InputError(
                f"{type(callback).__name__} was given beside PruneCallback: it keeps a copy of "
                "the weights, whose widths do not follow. Average after pruning."
            )
