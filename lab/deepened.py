"""Deeper residual nets that start as a shallower one that is trained, and compute the same.

A block whose last BatchNorm has a weight of zero hands on its input (Chen et al. 2016,
"Net2Net", arXiv 1511.05641), so that a deep net's training does not start at chance. Both nets have
identities for shortcuts, and a ReLU before every block.
"""

from torch import Tensor, nn

from mipp.models.resnet import ResNet


def deepen(shallow: ResNet, deep: ResNet) -> ResNet:
    """``deep`` with the blocks of ``shallow``, and between them blocks that change nothing.

    Args:
        shallow: Trained; it stays as it is.
        deep: With new weights, which those of its other blocks keep; it is changed in place.

    Raises:
        ValueError: Where a stage has not a multiple of the shallow net's blocks, or these have
            parameters that the deep net's blocks lack.
    """
    state: dict[str, Tensor] = {}
    for name, module in shallow.named_children():
        if not isinstance(module, nn.Sequential):
            state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
            continue
        stage = deep.get_submodule(name)
        assert isinstance(stage, nn.Sequential)
        each, rest = divmod(len(stage), len(module))
        if rest:
            raise ValueError(
                f"{name} has {len(stage)} blocks, which {len(module)} do not divide: "
                "start from a net whose stages have a divisor of them"
            )
        for index, block in enumerate(stage):
            if index % each:
                nn.init.zeros_(block.get_parameter("bn2.weight"))
            else:
                taken = module[index // each].state_dict()
                state |= {f"{name}.{index}.{key}": value for key, value in taken.items()}
    unknown = deep.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the deep net has no {', '.join(unknown)}: expected the same blocks")
    return deep
