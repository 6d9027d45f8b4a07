"""Experts of a mixture, out of one parameter for all of them and back into it.

Hugging Face's mixtures of experts hold the weights of all experts of a layer in parameters of three
dimensions (``gate_up_proj``, ``down_proj``), so that no call of a layer is there that could be
measured, and every expert has to be as wide as the others. Taken apart, each expert is two linear
layers, whose neurons are units of their own.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.checks import checked
from mipp.errors import SurgeryError
from mipp.surgery.tensors import deep_copy
from mipp.tracing.guards import duplicate, gradients_enabled

Module = TypeVar("Module", bound=nn.Module)

_DEFAULT_GATE = "_default_apply_gate"
"""What transformers calls the gate of two halves, the first through the activation."""

_ARGUMENTS = ["hidden_states", "top_k_index", "top_k_weights"]


class Expert(nn.Module):
    """One expert: ``down(act(gate) * up)``, with gate and up the halves of one layer's output.

    Without a gate it is ``down(act(up))``.
    """

    def __init__(
        self, up: nn.Linear, down: nn.Linear, act_fn: Callable[[Tensor], Tensor], *, gated: bool
    ) -> None:
        super().__init__()
        self.up, self.down, self.act_fn, self.gated = up, down, act_fn, gated

    def forward(self, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
        """The tokens of this expert."""
        made = self.up(x)
        if not self.gated:
            return self.down(self.act_fn(made))
        gate, up = made.chunk(2, dim=-1)
        return self.down(self.act_fn(gate) * up)


class Experts(nn.ModuleList):
    """The experts of one layer, each with layers of its own; made by `unstacked`."""

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        top_k_index: Int[Tensor, "tokens k"],
        top_k_weights: Float[Tensor, "tokens k"],
    ) -> Float[Tensor, "tokens hidden"]:
        """Every token by the experts that it was given, weighed."""
        made = torch.zeros_like(hidden_states)
        for number, expert in enumerate(self):
            token, place = torch.where(top_k_index == number)
            mine = expert(hidden_states[token]) * top_k_weights[token, place, None]
            made.index_add_(0, token, mine.to(made.dtype))
        return made


@gradients_enabled()
@checked
def unstacked(model: Module) -> Module:
    """A copy of a model whose experts, stacked in one parameter, are linear layers of their own.

    For mixtures of experts of Hugging Face transformers 5 (Mixtral, Qwen, OLMoE, ...). It computes
    what the model computes, which is tried on some tokens of every expert; its experts are
    `Experts`, and can be pruned to a width each. The model itself is not changed. `restacked` puts
    the experts back. For `mipp.load` the model that is built has to be unstacked, too.

    Raises:
        SurgeryError: No experts are stacked in the model, they compute something else than experts
            of that kind do or share parameters with others, or the model cannot be copied.
    """
    places = _places(model, _is_stacked)
    if not places:
        raise SurgeryError(
            f"{type(model).__name__} has no experts to unstack: expected modules in it that hold "
            "them in parameters of three dimensions, 'down_proj' and 'gate_up_proj' or 'up_proj'."
        )
    copied = deep_copy(model, {})
    for names in places:
        module = copied.get_submodule(names[0])
        _check_plain(module, names[0])
        _check_own(module, copied, names[0])
        made = _apart(module)
        _check_same(module, made, names[0])
        for name in names:
            _put(copied, name, made)
    return copied


@gradients_enabled()
@checked
def restacked(model: Module, like: nn.Module, round_to: int = 8) -> Module:
    """A copy of a model from `unstacked`, pruned since or not, with its experts in one parameter.

    Experts that are narrower than the widest of their layer get neurons of weight zero, so that
    the copy computes what the model computes; attributes that give the widths follow. A config is
    left as it is: it has one width for all layers. A budget for the experts with
    ``allocation="uniform"`` leaves nothing to fill up.

    Args:
        model: A model from `unstacked`.
        like: A model as it was before `unstacked`, of any width, whose modules are copied.
        round_to: Widths are multiples of this, where that is no wider than ``like``; PyTorch's
            product of groups wants rows of 16 bytes.

    Raises:
        SurgeryError: Nothing in the model is unstacked, or ``like`` has other modules there.
    """
    places = _places(model, lambda module: isinstance(module, Experts))
    if not places:
        raise SurgeryError(
            f"{type(model).__name__} has no experts to stack; expected a model that came out of "
            "mipp.prepare.unstacked."
        )
    copied = deep_copy(model, {})
    modules = dict(like.named_modules(remove_duplicate=False))
    for names in places:
        stacked, experts = modules.get(names[0]), copied.get_submodule(names[0])
        assert isinstance(experts, Experts)
        if stacked is None or not _is_stacked(stacked) or len(experts) != _count(stacked):
            raise SurgeryError(
                f"like= has no {len(experts)} stacked experts at {names[0]!r}; expected the model "
                "as it was before mipp.prepare.unstacked, or one that was built in the same way."
            )
        made = _together(experts, stacked, round_to, copied)
        for name in names:
            _put(copied, name, made)
    return copied


def _places(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[list[str]]:
    """All names of each wanted module inside of the model, one list for each module."""
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name and wanted(module):
            places.setdefault(id(module), []).append(name)
    return list(places.values())


def _is_stacked(module: nn.Module) -> bool:
    up, down = _first(module), getattr(module, "down_proj", None)
    return all(isinstance(w, nn.Parameter) and w.dim() == 3 for w in (up, down))


def _first(module: nn.Module) -> nn.Parameter | None:
    found = getattr(module, _up_name(module), None)
    return found if isinstance(found, nn.Parameter) else None


def _up_name(module: nn.Module) -> str:
    return "gate_up_proj" if hasattr(module, "gate_up_proj") else "up_proj"


def _width(module: nn.Module) -> int:
    """Neurons of an expert."""
    return module.get_parameter("down_proj").shape[1 if _is_transposed(module) else 2]


def _is_transposed(module: nn.Module) -> bool:
    return bool(getattr(module, "is_transposed", False))


def _count(module: nn.Module) -> int:
    first = _first(module)
    return 0 if first is None else len(first)


def _check_plain(module: nn.Module, name: str) -> None:
    """Raises where it can be seen that the experts are of another kind."""
    gate = getattr(type(module), "_apply_gate", None)
    takes = list(inspect.signature(module.forward).parameters)
    parts = {_up_name(module), "down_proj"}
    own = {n for n, _ in module.named_parameters()} - parts - {f"{part}_bias" for part in parts}
    stacks = [module.get_parameter(part) for part in parts]
    plain = gate is not None and gate.__name__ == _DEFAULT_GATE and takes == _ARGUMENTS
    plain &= callable(getattr(module, "act_fn", None)) and not own
    plain &= all(s.is_floating_point() and len(s) == len(stacks[0]) for s in stacks)
    if not plain:
        raise SurgeryError(_otherwise(module, name))


def _check_same(module: nn.Module, experts: "Experts", name: str) -> None:
    """Raises where the experts compute something else on a few tokens of each."""
    down = next(_all(experts)).down
    if down.weight.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    n, hidden = len(experts), down.out_features
    tokens = torch.randn(2 * n, hidden, generator=generator).to(down.weight)
    index = torch.arange(2 * n).unsqueeze(1).remainder(n).to(down.weight.device)
    weights = torch.rand(2 * n, 1, generator=generator).to(down.weight)
    # the class's own code: kernels for groups want widths of their own
    forward = getattr(type(module).forward, "__wrapped__", type(module).forward)
    if "forward" in vars(module):
        raise SurgeryError(_otherwise(module, name))
    with torch.no_grad():
        try:
            wanted = forward(module, tokens, index, weights).double()
        except Exception as error:
            raise SurgeryError(f"{_otherwise(module, name)} ({error})") from error
        off = (experts(tokens, index, weights).double() - wanted).abs().max()
    tolerance = max(8 * torch.finfo(down.weight.dtype).eps, 1e-5)
    if not bool(off <= tolerance * wanted.abs().max()):
        raise SurgeryError(_otherwise(module, name))


def _otherwise(module: nn.Module, name: str) -> str:
    return (
        f"{name} ({type(module).__name__}) routes, gates or normalises in a way of its own. "
        f"Expected a forward of {', '.join(_ARGUMENTS)} that computes down(act_fn(gate) * up) "
        "for each expert, with gate and up the halves of one product. Write the experts as "
        "linear layers."
    )


def _check_own(module: nn.Module, model: nn.Module, name: str) -> None:
    """Raises where another module holds a parameter of these experts."""
    others = [other for other in model.modules() if other is not module]
    theirs = {id(p) for other in others for p in other.parameters(recurse=False)}
    shared = [own for own, parameter in module.named_parameters() if id(parameter) in theirs]
    if shared:
        raise SurgeryError(
            f"{name} shares {', '.join(shared)} with another module. Expected experts with "
            "parameters of their own; give each its own copy first."
        )


def _apart(module: nn.Module) -> Experts:
    made = Experts()
    for number in range(_count(module)):
        up, down = (_layer(module, part, number) for part in (_up_name(module), "down_proj"))
        act_fn = copy.deepcopy(module.act_fn)
        assert callable(act_fn)
        made.append(Expert(up, down, act_fn, gated=_up_name(module) == "gate_up_proj"))
    made.train(module.training)
    return made


def _layer(module: nn.Module, part: str, number: int) -> nn.Linear:
    """One expert's own part of a stack as a layer."""
    stack = module.get_parameter(part)
    weight, bias = stack.detach()[number], getattr(module, f"{part}_bias", None)
    weight = weight.T if _is_transposed(module) else weight
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=stack.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach()[number].clone(), requires_grad=bias.requires_grad)
    return layer


def _together(experts: Experts, like: nn.Module, round_to: int, model: nn.Module) -> nn.Module:
    """A copy of ``like``, which holds these experts; its config is that of ``model``."""
    # what has a stack's place in the copy is replaced below
    spared: dict[int, object] = {
        id(p): nn.Parameter(torch.empty(0), requires_grad=False) for p in like.parameters()
    }
    config = getattr(like, "config", None)
    if config is not None:
        configs = (getattr(m, "config", None) for m in model.modules())
        same = next((c for c in configs if type(c) is type(config)), None)
        spared |= {} if same is None else {id(config): same}
    module = duplicate(like, spared)
    widest = max(expert.down.in_features for expert in _all(experts))
    whole = _width(like)
    rounded = -(-widest // round_to) * round_to
    widest = max(widest, min(rounded, whole)) if widest <= whole else rounded
    parts = {"down_proj": ([e.down for e in _all(experts)], 1)}
    parts[_up_name(like)] = (
        [e.up for e in _all(experts)],
        2 if hasattr(like, "gate_up_proj") else 1,
    )
    for part, (layers, halves) in parts.items():
        own = part != "down_proj"
        weights = [_padded(l.weight.detach(), 0 if own else 1, widest, halves) for l in layers]
        stack = torch.stack(weights)
        stack = stack.mT.contiguous() if _is_transposed(like) else stack
        module.register_parameter(part, nn.Parameter(stack, layers[0].weight.requires_grad))
        if layers[0].bias is not None:
            biases = [l.bias.detach() for l in layers]
            biases = [_padded(b, 0, widest, halves) for b in biases] if own else biases
            learned = layers[0].bias.requires_grad
            module.register_parameter(f"{part}_bias", nn.Parameter(torch.stack(biases), learned))
    hidden = next(_all(experts)).down.out_features
    sizes = {"intermediate_dim": widest, "intermediate_size": widest, "hidden_dim": hidden}
    for attribute, width in sizes.items():
        if hasattr(module, attribute):
            setattr(module, attribute, width)
    return module.train(experts.training)


def _all(experts: Experts) -> Iterator[Expert]:
    for expert in experts:
        assert isinstance(expert, Expert)
        yield expert


def _padded(values: Tensor, dim: int, width: int, halves: int) -> Tensor:
    """With zeros up to ``width`` along a dimension, in each of its halves."""

    def wide(part: Tensor) -> Tensor:
        shape = list(part.shape)
        shape[dim] = width - shape[dim]
        return torch.cat([part, part.new_zeros(shape)], dim)

    return torch.cat([wide(part) for part in values.chunk(halves, dim)], dim)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
