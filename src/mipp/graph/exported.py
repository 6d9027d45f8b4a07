"""From a model and an example to the ATen graph of one forward pass, with the model untouched.

The exported program is only read, never run, so its shapes are static. It is traced with two
examples: with one, a batch dimension would look like a broadcast one. Inputs that are not all
of one length are traced as given: to cut them along dimension 0 would not cut out examples.
"""

import inspect
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from mipp.errors import GraphError, InputError
from mipp.tracing import guards
from mipp.tracing.calls import of_one_length
from mipp.tracing.size_attributes import NoteSizes, with_attribute_ints

N_EXAMPLES = 2
"""Examples in the traced batch, cut from the given one or repeated out of it, where that works."""


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported model.

    ``batch`` is the number of examples in the traced inputs. ``first_names`` maps every name of a
    parameter or buffer, shared ones included, to the first; ``shapes`` has those of all parameters.

    Attributes:
        calls: Integers of calls with a size that an attribute gives (`tracing.size_attributes`).
    """

    program: ExportedProgram
    batch: int
    first_names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    calls: Sequence[tuple[int, ...]] = ()


def unwrap(model: nn.Module) -> nn.Module:
    """`mipp.tracing.guards.unwrap` for a model that is to be traced.

    Raises:
        InputError: it is no module, or a compiled or exported program, or has one in it.
    """
    if isinstance(model, ExportedProgram):
        raise _compiled("model", "torch.export")
    own = guards.unwrap(model)
    _check_written_in_python(own)
    return own


def _check_written_in_python(model: nn.Module) -> None:
    for path, module in model.named_modules():
        what = f"model.{path}".rstrip(".")
        # torch.export takes train and eval away from the modules that it makes
        if isinstance(module, GraphModule) and "eval" in vars(module):
            raise _compiled(what, "torch.export")
        if isinstance(module, torch.jit.ScriptModule):
            raise _compiled(what, "torch.jit")


def _compiled(what: str, maker: str) -> InputError:
    return InputError(
        f"{what} is a program that {maker} has made, whose sizes cannot be followed; a "
        "torch.nn.Module written in Python was expected. Give the model from which it was made, "
        "and make the program of the small one."
    )


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exported:
    """Exports an unwrapped model; `GraphError` with the cause where torch.export cannot."""
    batch = _batch_size(args, kwargs)
    as_given = (args, dict(kwargs), batch)
    few = (*_few_examples(args, kwargs, batch), N_EXAMPLES)
    # the fewer the faster, but what does not hold the examples in dimension 0 cannot be cut there
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    divisible = of_one_length([leaf for leaf in leaves if isinstance(leaf, Tensor)])
    tries = [few, as_given] if divisible else [as_given, few]
    causes: list[Exception] = []
    for own_args, own_kwargs, size in tries:
        try:
            with guards.as_it_was(model), _quiet():
                program, calls = _export(model, own_args, own_kwargs)
        except Exception as cause:  # noqa: BLE001  # torch.export raises what forward raises
            causes.append(cause)
        else:
            shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
            return Exported(program, size, _first_names(model), shapes, calls)
    raise _export_error(model, causes[0 if tries[0] is as_given else 1]) from None


Calls = Sequence[tuple[int, ...]]


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[ExportedProgram, Calls]:
    """The program and the calls with sizes from attributes, none where these cannot be watched."""
    # language models are traced without the cache of keys and values that they would put out
    if "use_cache" not in kwargs and _takes_cache(model):
        try:
            return _watched(model, args, {"use_cache": False, **kwargs})
        except TypeError:
            # handed on to some other module, which does not have it
            if "use_cache" in inspect.signature(model.forward).parameters:
                raise
    return _watched(model, args, dict(kwargs))


def _watched(
    model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[ExportedProgram, Calls]:
    with warnings.catch_warnings():
        # such as attributes that forward assigns, which torch.export puts back
        warnings.simplefilter("ignore")
        try:
            noted = NoteSizes()
            with noted, torch.fx.traceback.preserve_node_meta():
                twin = with_attribute_ints(model)
                return torch.export.export(twin, args, given, strict=False), noted.calls
        except Exception:  # noqa: BLE001  # a model that cannot be copied, or checks its integers
            return torch.export.export(model, args, given, strict=False), []


def _takes_cache(model: nn.Module) -> bool:
    """Whether a forward has ``use_cache``, or hands all keywords on to a module that does."""
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" in parameters:
        return True
    passes_on = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    return passes_on and any(_takes_cache(module) for module in model.children())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch silent: a failed trace logs and prints its whole graph, and we report the cause.

    Loggers with a level of their own, such as the environment variable TORCH_LOGS sets, still log.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _export_error(model: nn.Module, cause: Exception) -> GraphError:
    paragraph = str(cause).strip().partition("\n\n")[0]
    first_lines = " | ".join(line.strip() for line in paragraph.splitlines()[:3]) or "no message"
    where = _raised_at(cause)
    error = GraphError(
        f"torch.export cannot trace {type(model).__name__}: {type(cause).__name__}: "
        f"{shorten(first_lines, 600, placeholder=' ...').rstrip('.')}{where and f' (at {where})'}. "
        "mipp needs a forward pass that torch.export accepts for the given example. Check that "
        "model(*args, **kwargs) runs in eval mode, and take out of forward any `if` on tensor "
        "values and any conversion to numpy."
    )
    # its text and traceback may have thousands of lines, so it is not shown with every error
    error.__context__ = cause
    error.add_note("The whole error of torch.export is in __context__; `mipp --debug` prints it.")
    return error


def _raised_at(cause: Exception) -> str:
    """``file:line `code` `` of the innermost call outside of torch and mipp; may be empty."""
    theirs = (_TORCH, str(Path(__file__).parents[1]), "<")
    frames = traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(theirs)]
    if not own:
        return ""
    code = shorten(own[-1].line or "", 90, placeholder=" ...")
    return f"{_short(own[-1].filename)}:{own[-1].lineno} `{code}`"


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
    args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def few(leaf: Any) -> object:
        cut = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch
        if cut and leaf.layout is torch.strided:
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

_FRAME = re.compile(
    r'^\s*File "(.+?)", line (\d+)[^\n]*(?:\n(?!\s*File ")\s*([^\n]+))?', re.MULTILINE
)
"""A frame of a stack trace: its file, its line, and the code there, if that is given."""


def source_line(node: torch.fx.Node) -> str:
    """``file:line `code` `` of the user's call behind a node, as short as can be; may be empty."""
    frames: list[tuple[str, str, str]] = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(_TORCH)] or frames
    if not own:
        return ""
    path, line, text = own[-1]
    code = shorten(text.strip(), 90, placeholder=" ...")
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


def _short(path: str) -> str:
    if "site-packages/" in path:
        return path.rpartition("site-packages/")[2]
    if Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return Path(path).name
