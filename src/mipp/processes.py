"""Several processes under `torch.distributed`: all of them continue, or all of them raise.

A process that fails alone leaves the others waiting in their next collective operation. So each
collective operation is preceded by an exchange of statuses, and a process that fails takes part in
one last exchange. Without ``torch.distributed``, or with one process, nothing is exchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from itertools import zip_longest
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from mipp import errors
from mipp.errors import CalibrationError, InputError, MippError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Status = tuple[Literal["here", "failed"], str, tuple[str, ...]]
"""``("here", step, values)``, or ``("failed", name of the error's class, (text,))``."""


class _Session:
    """The ranks that run one call together."""

    def __init__(self, device: torch.device, *, alone: bool) -> None:
        distributed = torch.distributed
        joined = not alone and distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.size = distributed.get_world_size() if joined else 1
        self.device = device
        self.failure: Exception | None = None

    def agree(self, step: str, values: Sequence[str]) -> None:
        """Raise on all ranks if one failed, is at another step, or has other values."""
        if self.failure is not None:  # known, and swallowed by some code since
            raise self.failure
        statuses = self._gather(("here", step, tuple(values)))
        self.failure = _failure_of(statuses) or _difference(statuses)
        if self.failure is not None:
            raise self.failure

    def fail(self, error: Exception) -> None:
        """Send the error to the other ranks; raise unless ``error`` is itself the one to raise."""
        mine = _failed(error)
        try:
            statuses = self._gather(mine)
        except RuntimeError as cause:  # gone, or waiting no longer
            error.add_note(f"rank {self.rank}: the other ranks could not be notified: {cause}")
            return
        if len(set(statuses)) == 1:
            return
        reported = _failure_of(statuses)
        assert reported is not None
        first = next(status for status in statuses if status[0] == "failed")
        if mine != first:
            raise reported from error
        if isinstance(error, MippError):
            error.args = reported.args
        else:
            error.add_note(str(reported))

    def _gather(self, mine: Status) -> list[Status]:
        gathered: list[Any] = [None] * self.size
        # NCCL sends from the current device, which all ranks share unless the caller set it
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        try:
            with on_device:
                torch.distributed.all_gather_object(gathered, mine)
        except RuntimeError as error:  # of the process group, which cannot be used any more
            self.failure = error
            raise
        return gathered


_session: ContextVar[_Session | None] = ContextVar("session", default=None)


@contextmanager
def together(model: Any, *, alone: bool = False) -> Iterator[None]:
    """Raise on all ranks what the block raises on one, with the number of that rank.

    Every rank has to run the block. An error of mipp has the same class on all ranks. Any other
    error is raised unchanged, with a note, on the rank where it happened, and as `CalibrationError`
    on the other ranks. Nested blocks are part of the outer one.

    Args:
        model: its device is used for the exchange, if that is a GPU.
        alone: whether this process runs the block alone, without exchange.
    """
    if _session.get() is not None:
        yield
        return
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = torch.device("cpu") if parameter is None else parameter.device
    session = _Session(device, alone=alone)
    token = _session.set(session)
    try:
        yield
        if session.size > 1:
            session.agree("the end", ())
    except Exception as error:
        if session.size > 1 and session.failure is None:
            session.fail(error)
        raise
    finally:
        _session.reset(token)


def raises_on_all_ranks(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """Run a function of a model `together`; with ``training=``, in each process alone."""

    @wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        model = args[0] if args else kwargs.get("model")
        # training runs in each process alone, and is often called in only one
        with together(model, alone=kwargs.get("training") is not None):
            return function(*args, **kwargs)

    return run


def rank_and_size() -> tuple[int, int]:
    """Number of this process and of all processes, in a `together` block; else 0 and 1."""
    session = _session.get()
    return (0, 1) if session is None else (session.rank, session.size)


def agree(step: str, values: Sequence[str]) -> None:
    """Raise `InputError` on all ranks unless all are at this step with the same values."""
    session = _session.get()
    if session is not None and session.size > 1:
        session.agree(step, values)


def all_reduce(step: str, *values: Tensor) -> None:
    """Sum each tensor over the ranks, in place, in a `together` block; else do nothing."""
    if rank_and_size()[1] == 1:
        return
    agree(step, [f"{tuple(v.shape)} {_short(v.dtype)}" for v in values])
    for value in values:
        torch.distributed.all_reduce(value)


def total(step: str, count: int) -> int:
    """The sum of a count over the ranks."""
    return sum(_counts(step, count))


def largest(step: str, count: int) -> int:
    """The largest count of all ranks."""
    return max(_counts(step, count))


def smallest(step: str, count: int) -> int:
    """The smallest count of all ranks."""
    return min(_counts(step, count))


def _counts(step: str, count: int) -> list[int]:
    session = _session.get()
    if session is None or session.size == 1:
        return [count]
    counts = torch.zeros(session.size, dtype=torch.int64, device=session.device)
    counts[session.rank] = count
    all_reduce(step, counts)
    return [int(c) for c in counts]


def gathered(step: str, rows: Tensor) -> Tensor:
    """The rows of all ranks, one rank after the other, in a `together` block."""
    rank, size = rank_and_size()
    if size == 1:
        return rows
    counts = _counts(f"the number of {step}", len(rows))
    every = rows.new_zeros(sum(counts), *rows.shape[1:])
    start = sum(counts[:rank])
    every[start : start + len(rows)] = rows
    all_reduce(step, every)
    return every


def same_model(model: nn.Module) -> None:
    """Raise `InputError` on all ranks unless all have the same parameters, bit for bit.

    Buffers may differ, such as the running statistics of data-parallel training.
    """
    if rank_and_size()[1] > 1:
        named = [f"{name} {_described(p)}" for name, p in model.named_parameters()]
        agree("the model", [type(model).__name__, *named])


def _described(parameter: nn.Parameter) -> str:
    if nn.parameter.is_lazy(parameter):
        return "without a shape"
    same_size = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    bits = parameter.detach().flatten().view(same_size.get(parameter.itemsize, torch.int64))
    checksum = int(bits.sum(dtype=torch.int64)) % 2**64
    return f"{tuple(parameter.shape)} {_short(parameter.dtype)} with checksum {checksum:x}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _failed(error: Exception) -> Status:
    if isinstance(error, MippError):
        return "failed", type(error).__name__, (str(error),)
    return "failed", CalibrationError.__name__, (f"{type(error).__name__}: {error}",)


def _failure_of(statuses: Sequence[Status]) -> MippError | None:
    """The error of the first rank that failed, to be raised on the others."""
    for rank, (kind, name, texts) in enumerate(statuses):
        if kind == "failed":
            return getattr(errors, name, MippError)(f"rank {rank}: {texts[0]}")
    return None


def _difference(statuses: Sequence[Status]) -> InputError | None:
    """The error to raise if the ranks are not at the same step with the same values."""
    _, step, values = statuses[0]
    for rank, (_, other_step, other_values) in enumerate(statuses):
        if other_step != step:
            return InputError(
                f"rank {rank}: is at another step than rank 0: {other_step} instead of {step}. "
                "All ranks have to make the same calls. Give every rank the same model and options."
            )
        pairs = zip_longest(values, other_values, fillvalue="nothing")
        differing = next(((a, b) for a, b in pairs if a != b), None)
        if differing is not None:
            return InputError(
                f"rank {rank}: differs from rank 0 in {step}: {differing[1]} instead of "
                f"{differing[0]}. Examples may differ between ranks, and how many they are; "
                "nothing else may. Give every rank the same weights, options and kind of batches."
            )
    return None
