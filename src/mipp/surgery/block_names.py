"""What a model without some blocks is called inside: the record of a block that is gone, and names.

Records say everything by names in the full-size model, from which all blocks are taken at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mipp.errors import InputError

Leaves = Literal["nothing", "gap", "identity"]
"""What is in the place of a block that is gone: nothing, since those behind it move up; a name that
is missing; or an `nn.Identity`."""


@dataclass(frozen=True, order=True)
class RemovedBlock:
    """A block that is gone.

    Attributes:
        name: Its path in the full-size model.
        leaves: What is in its place.
        siblings: Number of modules in the list that it stood in, itself included; 0 for a block
            that leaves an identity.
        counted: Places in configs that count the modules of that list, such as
            ``:num_hidden_layers`` and ``:layer_types``; before the colon the module whose config it
            is.
    """

    name: str
    leaves: Leaves
    siblings: int = 0
    counted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        number = self.name.rpartition(".")[2]
        moves = self.leaves == "nothing"
        if moves and not (number.isdecimal() and int(number) < self.siblings):
            raise InputError(
                f"block {self.name!r}: expected the number of one of {self.siblings} modules"
            )

    @property
    def container(self) -> str:
        """Path of the module that it is a child of."""
        return self.name.rpartition(".")[0]


def is_under(path: str, outer: str) -> bool:
    """Whether a module is another one, or lies in it; the model itself has no name."""
    return outer in ("", path) or path.startswith(f"{outer}.")


def new_name(name: str, blocks: Sequence[RemovedBlock]) -> str | None:
    """What a module or tensor is called once the blocks are gone; None if it is inside of one.

    Args:
        name: In the model that has them.
        blocks: That go.
    """
    gone = {block.name for block in blocks}
    lists = _moved(blocks)
    parts, path = [], ""
    for part in _parts(name):
        container, path = path, f"{path}.{part}".lstrip(".")
        if path in gone:
            return None
        parts.append(str(int(part) - sum(n < int(part) for n in lists[container]))
                     if container in lists else part)  # fmt: skip
    return ".".join(parts)


def original_name(name: str, blocks: Sequence[RemovedBlock]) -> str:
    """What a module or tensor was called before the blocks went; undoes `new_name`."""
    lists = _moved(blocks)
    path = ""
    for part in _parts(name):
        own = part
        if path in lists:
            for gone in lists[path]:
                own = str(int(own) + (gone <= int(own)))
        path = f"{path}.{own}".lstrip(".")
    return path


def _parts(name: str) -> list[str]:
    """The steps that lead to a module or tensor, none to the model itself."""
    return name.split(".") if name else []


def _moved(blocks: Sequence[RemovedBlock]) -> Mapping[str, list[int]]:
    """Container -> rising numbers of those that are gone, where the others move up."""
    found: dict[str, list[int]] = {}
    for block in blocks:
        if block.leaves == "nothing":
            found.setdefault(block.container, []).append(int(block.name.rpartition(".")[2]))
    return {path: sorted(numbers) for path, numbers in found.items()}
