"""Look before you cut: groups, refusals, several budgets, masks, plans as files.

python inspect_and_plan.py
"""

import torch

import mipp
from mipp import models


def main() -> None:
    """Make plans for an untrained ResNet-20 of half width, on random images; takes some seconds."""
    model = models.build("resnet20b", width=0.5, seed=0)
    x = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = x.split(64)  # no targets: labels are drawn from the model's own predictions

    # a plan changes nothing; printed, it lists what is removed, kept and refused, and why
    plan = mipp.plan(model, batches, "macs=50%")
    print(plan, end="\n\n")
    for row in plan.summary:
        lost = row.nats_before - row.nats_after
        print(f"{row.name:16} {row.units_before:3} -> {row.units_after:3}, {lost:.3g} nats lost")

    # protect some layers, keep widths in multiples of four, limit two resources at once
    careful = mipp.plan(
        model, batches, "macs=60%,params=60%", protect=["conv1", "layer1.*"], round_to=4
    )
    print("\nkept per group:", {name: len(units) for name, units in careful.keep.items()})

    # JSON, in the numbering of the full model; read back, it removes the same units
    again = mipp.Plan.from_json(careful.to_json(), model, batches)
    masked, sliced = again.mask().eval(), again.apply(refit=False).eval()
    with torch.no_grad():
        print(f"masked and sliced differ by {(masked(x) - sliced(x)).abs().max():.1e} at most")

    # a budget that cannot be reached is an error that names the smallest one that can
    try:
        mipp.plan(model, batches, "macs=0.1%")
    except mipp.errors.BudgetError as error:
        print(f"\n{error}")

    # continue training with the same momenta
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    small = plan.apply()
    optimizer = plan.remap(optimizer, small)
    n_parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    print(f"the optimizer now has {n_parameters:,} parameters")


if __name__ == "__main__":
    main()
