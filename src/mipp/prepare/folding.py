"""Weight and spectral norms, and pruning masks, folded into the weights that they compute."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mipp.checks import checked
from mipp.errors import SurgeryError
from mipp.tracing.guards import duplicate, gradients_enabled, modes_kept

Module = TypeVar("Module", bound=nn.Module)


@gradients_enabled()
@checked
def folded(model: Module) -> Module:
    """A copy of a model in which every parametrized weight is a plain parameter again.

    It computes what the model computes in evaluation mode. Weight norm and spectral norm go, of
    `torch.nn.utils.parametrizations` and the older ones of `torch.nn.utils`, masks of
    `torch.nn.utils.prune`, whose zeros are zeros of the weight then, and any other
    parametrization: with weights that are computed nothing can be cut, since a norm is taken over
    the very weights that would go. Put them back on the small model, such as with
    ``weight_norm(small.conv)``, before training on. The model itself is not changed.

    Raises:
        SurgeryError: The model cannot be copied, or a parametrization cannot be undone.

    Examples:
        >>> import torch
        >>> import mipp
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2))
        >>> _ = torch.nn.utils.parametrizations.weight_norm(net[0])
        >>> type(mipp.prepare.folded(net)[0].weight).__name__
        'Parameter'
    """
    try:
        plain = duplicate(model)
        with modes_kept(plain):
            plain.eval()
            for module in list(plain.modules()):
                _fold(module, plain)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be made plain: {error}. Take its parametrizations off "
            "yourself, with torch.nn.utils.parametrize.remove_parametrizations, before planning."
        ) from error
    return plain


def _fold(module: nn.Module, model: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        _unparametrize(module)
    for hook in list(module._forward_pre_hooks.values()):  # noqa: SLF001 # as torch finds them
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            _fold_mask(module, hook._tensor_name, model)  # noqa: SLF001 # it has no other name


def _fold_mask(module: nn.Module, name: str, model: nn.Module) -> None:
    """As torch does it, but a weight that other modules use, too, stays what it is for them."""
    own = f"{name}_orig"
    weight = module.get_parameter(own)
    names = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight]
    if len(names) > 1:
        apart = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        module.register_parameter(own, apart)
    prune.remove(module, name)


def _unparametrize(module: nn.Module) -> None:
    """As torch does it, but the class, which the copy shares with the model, stays as it is."""
    lists = dict(module.parametrizations.named_children())  # type: ignore[union-attr]
    with torch.no_grad():
        values = {name: getattr(module, name).clone() for name in lists}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        learned = [tensor.requires_grad for tensor in lists[name].parameters()]
        if learned:
            module.register_parameter(name, nn.Parameter(value, requires_grad=any(learned)))
        else:
            module.register_buffer(name, value)
