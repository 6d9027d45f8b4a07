"""From a model and an example to the ATen graph of one forward pass, with the model untouched.

The exported program is only read, never run, so its shapes are static. It is traced with two
examples: with one, a batch dimension could not be told from a broadcast.
"""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from mipp.checks import check_module
from mipp.errors import GraphError, InputError
from mipp.graph.spelled import Watch, remembering

N_EXAMPLES = 2
"""Examples in the traced batch, cut from the given one or repeated out of it."""


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported model.

    ``batch`` is the number of examples in the traced inputs. ``first_names`` maps every name of a
    parameter or buffer, shared ones included, to the first; ``shapes`` has those of all parameters.
    ``calls``: integers of calls with a size that an attribute spells, see `mipp.graph.spelled`.
    """

    program: ExportedProgram
    batch: int
    first_names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    calls: Sequence[tuple[int, ...]] = ()


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module inside of `torch.compile`, DistributedDataParallel or DataParallel.

    Raises:
        InputError: it is no module at all.
    """
    check_module(model)
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's train / eval flag and the random state as before after."""
    flags = {module: module.training for module in model.modules()}
    devices = {tensor.device.index or 0 for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)):
        try:
            model.eval()
            yield
        finally:
            for module, training in flags.items():
                module.training = training


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exported:
    """Export an unwrapped model; `GraphError` with the cause where torch.export cannot."""
    few_args, few_kwargs = _few_examples(args, kwargs)
    with untouched(model):
        try:
            (program, calls), batch = _export(model, few_args, few_kwargs), N_EXAMPLES
        except Exception as cause:  # noqa: BLE001  # torch.export raises what forward raises
            program, calls = _export_as_given(model, args, kwargs, cause)
            batch = _batch_size(args, kwargs)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    return Exported(program, batch, _first_names(model), shapes, calls)


Calls = Sequence[tuple[int, ...]]


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[ExportedProgram, Calls]:
    """The program and the calls with spelled sizes, none where the attributes cannot be watched."""
    given = _without_cache(model, kwargs)
    with warnings.catch_warnings():
        # such as attributes that forward assigns, which torch.export puts back
        warnings.simplefilter("ignore")
        try:
            watch = Watch()
            with watch, torch.fx.traceback.preserve_node_meta():
                twin = remembering(model)
                return torch.export.export(twin, args, given, strict=False), watch.calls
        except Exception:  # noqa: BLE001  # a model that cannot be copied, or checks its integers
            return torch.export.export(model, args, given, strict=False), []


def _without_cache(model: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Language models are traced without the cache of keys and values that they would put out."""
    cached = "use_cache" in inspect.signature(model.forward).parameters
    return ({"use_cache": False} if cached else {}) | dict(kwargs)


def _export_as_given(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], cause: Exception
) -> tuple[ExportedProgram, Calls]:
    """Second try, for a model that takes no other number of examples than that given."""
    try:
        return _export(model, args, kwargs)
    except Exception:  # noqa: BLE001  # the first error is the one to report
        raise _export_error(model, cause) from cause


def _export_error(model: nn.Module, cause: Exception) -> GraphError:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    first_lines = " | ".join(lines[:3]) or "no message"
    return GraphError(
        f"torch.export cannot trace {type(model).__name__}: {type(cause).__name__}: {first_lines}. "
        "mipp needs a forward pass that torch.export accepts for the given example. Check that "
        "model(*args, **kwargs) runs in eval mode, and take out of forward any `if` on tensor "
        "values and any conversion to numpy."
    )


def _batch_size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    for leaf in pytree.tree_leaves((args, dict(kwargs))):
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            if leaf.shape[0] == 0:
                raise InputError(
                    f"the example has an input of shape {tuple(leaf.shape)}, which holds no "
                    "example; give a batch of at least one."
                )
            return int(leaf.shape[0])
    raise InputError(
        "the example holds no tensor with a batch dimension; give args=(batch,) or kwargs with at "
        "least one tensor whose dimension 0 counts the examples."
    )


def _few_examples(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    batch = _batch_size(args, kwargs)

    def few(leaf: object) -> object:
        if isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch:
            return leaf[torch.arange(N_EXAMPLES, device=leaf.device) % batch]
        return leaf

    few_args, few_kwargs = pytree.tree_map(few, (args, dict(kwargs)))
    return few_args, few_kwargs


def _first_names(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        names[name] = first.setdefault(id(tensor), name)
    return names


_TORCH = str(Path(inspect.getfile(torch)).parent)


def source_line(node: torch.fx.Node) -> str:
    """``file:line `code` `` of the user's call behind a node, as short as can be; may be empty."""
    frames = _frames(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(_TORCH)] or frames
    if not own:
        return ""
    path, line, code = own[-1]
    return f"{_short(path)}:{line} `{code}`" if code else f"{_short(path)}:{line}"


def module_path(node: torch.fx.Node) -> str:
    """Path of the innermost module that calls a node, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def module_type(node: torch.fx.Node) -> str:
    """Name of the class of the innermost module that calls a node."""
    stack = node.meta.get("nn_module_stack") or {}
    kind = list(stack.values())[-1][1] if stack else ""
    return kind if isinstance(kind, str) else kind.__name__


def _frames(trace: str) -> list[tuple[str, str, str]]:
    frames: list[tuple[str, str, str]] = []
    for text in trace.splitlines():
        if text.lstrip().startswith('File "'):
            path, _, rest = text.lstrip()[len('File "') :].partition('", line ')
            frames.append((path, rest.partition(",")[0], ""))
        elif frames and text.strip() and not frames[-1][2]:
            frames[-1] = (*frames[-1][:2], shorten(text.strip(), 90, placeholder=" ..."))
    return frames


def _short(path: str) -> str:
    if "site-packages/" in path:
        return path.rpartition("site-packages/")[2]
    if Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return Path(path).name
