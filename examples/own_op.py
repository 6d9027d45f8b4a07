"""Add a rule for an operation that mipp does not know: a custom kernel with one number per channel.

python own_op.py
"""

import torch
from torch import Tensor, nn

import mipp
from mipp.graph.labels import Value
from mipp.graph.rules.rule import Call, rule


@torch.library.custom_op("mylib::scaled_relu", mutates_args=())
def scaled_relu(x: Tensor, scale: Tensor) -> Tensor:
    """``scale[c] * max(x[n, c, ...], 0)``; a real operation would launch a kernel here."""
    return x.relu() * scale.view(-1, 1, 1)


@scaled_relu.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    """Give torch.export the shape of the output."""
    return torch.empty_like(x)


class Net(nn.Module):
    """Two convolutions with the custom operation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.scale = nn.Parameter(torch.rand(16))
        self.second = nn.Conv2d(16, 32, 3)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 3, height, width)."""
        x = scaled_relu(self.first(x), self.scale)
        return self.head(self.second(x).relu().mean((2, 3)))


def main() -> None:
    """Plan without the rule, then with it."""
    torch.manual_seed(0)
    model, images = Net(), [torch.randn(256, 3, 12, 12)]
    # noise=0.1 needs no gradient, and the operation above has none
    print(mipp.plan(model, images, "macs=50%", noise=0.1), end="\n\n")

    @rule("mylib::scaled_relu")
    def scaled_relu_rule(call: Call) -> Value:
        """Entry ``c`` of the scale belongs to channel ``c``; the labels of the input are kept."""
        x = call.tensor("x")
        call.tie_vector(call.tensor("scale"), x.labels[1])
        return call.like(x)

    plan = mipp.plan(model, images, "macs=50%", noise=0.1)
    print(plan)
    small = plan.apply()
    print("scale of the small model:", tuple(small.scale.shape))


if __name__ == "__main__":
    main()
