"""A mode of torch that sees every call of a torch function, inside a ``with`` block."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mipp.tracing.attention import attention_forward, written_out


class FunctionMode(TorchFunctionMode):
    """Runs `call` in place of every torch function that is called inside the ``with`` block.

    Attributes:
        splits_attention: Whether `nn.MultiheadAttention` is computed in plain calls, which `call`
            then sees one by one, and not in one piece.
    """

    splits_attention = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hands the call on to `call`."""
        given = dict(kwargs or {})
        whole = func is F.multi_head_attention_forward and written_out(given)
        if whole and self.splits_attention:
            with self:
                return attention_forward(*args, **given)
        return self.call(func, args, given)

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the model gets in place of ``func(*args, **kwargs)``."""
        raise NotImplementedError
