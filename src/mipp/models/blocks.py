"""What all built-in networks share: how a width factor scales channels, and how weights start."""

from torch import nn

from mipp.errors import InputError


def scaled(channels: int, width: float) -> int:
    """Channels of a layer that has ``channels`` at width 1, rounded, at least one.

    Raises:
        InputError: if ``width`` is not positive.
    """
    if not width > 0:
        raise InputError(
            f"width={width!r} was given; a factor above 0 is expected, "
            "1.0 for the published network and 0.5 for half its channels."
        )
    return max(1, round(channels * width))


def init_he(model: nn.Module) -> None:
    """Start convolutions as He et al. (2015) do for ReLU networks, with fan-out and zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
