"""Products of an activation with a weight, as linear layers over the last dimension.

`weight @ x` and most einsums with a matrix read one dimension of ``x`` and put another in its
place, wherever that is. With both moved to the end, such a product is a linear layer like any
other. The graph and `tracing.calls` agree on which products these are because both ask here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

PRODUCTS = {
    torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__,
    torch.functional.einsum,
}  # fmt: skip
"""Functions that multiply tensors and sum over a dimension."""

SUMS: dict[Any, tuple[tuple[str, str, str], Any]] = {
    **dict.fromkeys((torch.addmm, Tensor.addmm), (("input", "mat1", "mat2"), torch.mm)),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), (("input", "batch1", "batch2"), torch.bmm)),
}
"""Functions that add something to a product: their arguments, and the product by itself."""


@dataclass(frozen=True)
class LinearForm:
    """A product with a matrix as a linear layer.

    Attributes:
        in_dim: The dimension of the matrix that is summed over.
        x_order: The dimensions of the activation, the one that is read last.
        y_order: The dimensions of the output in the same order, the one that is made last.
    """

    in_dim: int
    x_order: tuple[int, ...]
    y_order: tuple[int, ...]

    @property
    def back(self) -> tuple[int, ...]:
        """The order that undoes ``y_order``."""
        return tuple(sorted(range(len(self.y_order)), key=self.y_order.__getitem__))


def weight_on_the_right(rank: int) -> LinearForm:
    """``x @ weight`` for an ``x`` of so many dimensions."""
    order = tuple(range(rank))
    return LinearForm(0, order, order)


def weight_on_the_left(rank: int) -> LinearForm:
    """``weight @ x`` for an ``x`` of so many dimensions: features are its last but one."""
    order = (*range(rank - 2), rank - 1, rank - 2)
    return LinearForm(1, order, order)


def einsum_form(subscripts: Sequence[str], made: str, weight: int) -> LinearForm | None:
    """An einsum of two operands, of which number ``weight`` is a matrix; None if it is another sum.

    Args:
        subscripts: Of each operand, a letter for each dimension.
        made: The same of the output.
        weight: Number of the operand that is a matrix.
    """
    matrix, x = subscripts[weight], subscripts[1 - weight]
    if len(subscripts) != 2 or len(matrix) != 2 or repeats([*subscripts, made]):
        return None
    for in_dim in (0, 1):
        read, new = matrix[in_dim], matrix[1 - in_dim]
        others = x.replace(read, "")
        if read in x and new not in x and sorted(made) == sorted(others + new):
            return LinearForm(
                in_dim,
                tuple(x.index(letter) for letter in others + read),
                tuple(made.index(letter) for letter in others + new),
            )
    return None


def repeats(subscripts: Sequence[str]) -> bool:
    """Whether a letter occurs twice in one of the subscripts, as for a diagonal."""
    return any(len(set(letters)) != len(letters) for letters in subscripts)


def subscripts_of(equation: str, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Subscripts of an einsum's operands and output, with a letter for each dimension of the dots.

    Args:
        equation: The equation of the einsum.
        ranks: Dimensions of the operands. None where the equation names no output.
    """
    left, arrow, made = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        return None
    free = [letter for letter in ascii_letters if letter not in made + "".join(terms)]
    n_dots = [rank - len(term.replace(".", "")) for term, rank in zip(terms, ranks, strict=True)]
    texts = [
        text.replace("...", "".join(free[:n][::-1]))
        for text, n in zip([made, *terms], [max(n_dots), *n_dots], strict=True)
    ]
    return texts[1:], texts[0]


def factors_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a call of one of the `PRODUCTS` multiplies."""
    if func is not torch.functional.einsum:
        return [*args, *(kwargs[name] for name in ("input", "other", "mat2") if name in kwargs)]
    operands = list(args[1:])
    listed = len(operands) == 1 and isinstance(operands[0], list | tuple)
    return list(operands[0]) if listed else operands


def linear_form(
    func: Any, args: Sequence[Any], factors: Sequence[Tensor], at: int
) -> LinearForm | None:
    """The form of one of the `PRODUCTS` whose factor ``at`` is a weight; None if it is no layer."""
    weight, x = factors[at], factors[1 - at] if len(factors) == 2 else None
    if x is None:
        return None
    if func is torch.functional.einsum:
        return _einsum_form_of(args[0], factors, at)
    if x.dim() == 1 and at == 1 and weight.dim() == 2:
        return weight_on_the_right(1)
    if x.dim() < max(2, weight.dim()):
        return None
    lead = x.shape[x.dim() - weight.dim() : -2]
    if any(n not in (1, m) for n, m in zip(weight.shape[:-2], lead, strict=True)):
        return None  # the repeated weight repeats x
    return weight_on_the_left(x.dim()) if at == 0 else weight_on_the_right(x.dim())


def _einsum_form_of(equation: object, operands: Sequence[Tensor], at: int) -> LinearForm | None:
    if not isinstance(equation, str) or operands[at].dim() != 2:
        return None
    letters = subscripts_of(equation, [operand.dim() for operand in operands])
    form = None if letters is None else einsum_form(*letters, at)
    if form is None:
        return None
    # einsum repeats what has size 1
    read = operands[1 - at].shape[form.x_order[-1]]
    return form if read == operands[at].shape[form.in_dim] else None
