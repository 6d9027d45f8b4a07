"""Pruned models are ordinary modules: compiled, exported, wrapped, of any inputs and outputs."""

import copy
from collections import namedtuple

import pytest
import torch
from torch import nn

import mipp
from mipp import models


class Several(nn.Module):
    """Two inputs and a flag; puts out what ``form`` says."""

    def __init__(self, form="tuple"):
        super().__init__()
        self.form = form
        self.left, self.right = nn.Linear(6, 12), nn.Linear(4, 12)
        self.join, self.norm = nn.Linear(12, 10), nn.LayerNorm(5)
        self.first, self.second = nn.Linear(10, 3), nn.Linear(10, 5)

    def forward(self, x, pair, double=False):
        a, b = pair
        hidden = self.join(self.left(x).relu() + self.right(a * b).relu()).relu()
        first, second = self.first(hidden), self.norm(self.second(hidden))
        first = first * 2 if double else first
        if self.form == "tuple":
            return first, (second, hidden.mean())
        if self.form == "named":
            return namedtuple("Both", "logits other")(first, second)
        return {"logits": first, "more": {"other": second}}


class Residual(nn.Module):
    """Convolutions with norms around a sum, upsampling and a depthwise part."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.inner = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.inner(self.depth(x).relu())
        return self.head(self.up(x).relu().mean((2, 3)))


def mlp():
    return nn.Sequential(
        nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


CASES = {
    "mlp": (mlp, lambda n: (torch.randn(n, 6),)),
    "residual": (Residual, lambda n: (torch.randn(n, 3, 6, 6),)),
    "several": (Several, lambda n: (torch.randn(n, 6), (torch.randn(n, 4), torch.randn(n, 4)))),
    "digits": (
        lambda: models.build("digits_cnn", width=0.25, seed=0),
        lambda n: (torch.randn(n, 1, 8, 8),),
    ),
}


def pruned(name):
    make, inputs = CASES[name]
    model = make().eval()
    return mipp.prune(model, [(inputs(64), None)], "units=50%"), inputs


@pytest.mark.parametrize("name", CASES)
def test_torch_export_of_a_pruned_model_gives_the_same_numbers(name):
    small, inputs = pruned(name)
    exported = torch.export.export(small, inputs(3), strict=False).module()
    given = inputs(3)
    torch.testing.assert_close(exported(*given), small(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile itself
# the built-in nets are left out: dynamo does not follow the checks of shapes that the tests put in
@pytest.mark.parametrize("name", [name for name in CASES if name != "digits"])
def test_torch_compile_of_a_pruned_model_gives_the_same_numbers(name):
    small, inputs = pruned(name)
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for n in (3, 5):
            given = inputs(n)
            torch.testing.assert_close(compiled(*given), small(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what inductor says of this machine is not ours
def test_code_that_inductor_makes_of_a_pruned_model_gives_the_same_numbers():
    small, inputs = pruned("residual")
    given = inputs(3)
    with torch.no_grad():
        found = torch.compile(small)(*given)
        torch.testing.assert_close(found, small(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile itself
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    ],
    ids=["parallel", "compiled", "both"],
)
def test_wrapped_models_are_planned_as_what_is_inside_and_come_back_bare(wrap):
    model, batches = mlp(), [torch.randn(64, 6)]
    plain = mipp.plan(model, batches, "units=50%")
    wrapped = wrap(model)
    plan = mipp.plan(wrapped, batches, "units=50%")
    assert plan.to_json() == plain.to_json()
    small = plan.apply()
    assert type(small) is nn.Sequential
    assert list(small.state_dict()) == list(model.state_dict())
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    moved = plan.remap(optimizer, wrap(small))
    assert {id(p) for p in moved.param_groups[0]["params"]} == {id(p) for p in small.parameters()}


def test_models_of_several_processes_are_planned_as_what_is_inside():
    model, batches = mlp(), [torch.randn(64, 6)]
    plain = mipp.plan(model, batches, "units=50%")
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        plan = mipp.plan(wrapped, batches, "units=50%")
        small = plan.apply()
        moved = plan.remap(
            torch.optim.Adam(wrapped.parameters()), nn.parallel.DistributedDataParallel(small)
        )
    finally:
        torch.distributed.destroy_process_group()
    assert plan.keep == plain.keep
    assert type(small) is nn.Sequential
    assert {id(p) for p in moved.param_groups[0]["params"]} == {id(p) for p in small.parameters()}


@pytest.mark.parametrize("form", ["tuple", "named", "dict"])
@pytest.mark.parametrize("how", ["tuple", "dict", "target"])
def test_several_inputs_and_outputs_of_any_form(form, how):
    model, (x, pair) = Several(form), CASES["several"][1](64)
    batch = {
        "tuple": ((x, pair, True), None),
        "dict": {"pair": pair, "x": x, "double": True},
        "target": ({"x": x, "pair": pair, "double": True}, torch.zeros(64)),
    }[how]
    plan = mipp.plan(model, [batch], "units=50%", noise=0.1)
    assert plan.after.units <= 0.5 * plan.before.units
    masked, small = plan.mask().eval(), plan.apply(refit=False).eval()
    given = (x[:5], (pair[0][:5], pair[1][:5]), True)
    expected, found = masked(*given), small(*given)
    names = {
        "tuple": lambda o: [o[0], *o[1]],
        "named": list,
        "dict": lambda o: [o["logits"], *o["more"].values()],
    }
    for one, other in zip(names[form](expected), names[form](found), strict=True):
        if one.shape:  # the mean over what is left is another number
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_hooks_and_modes_are_there_before_and_after(training):
    model, batches, calls = Residual().train(training), [torch.randn(64, 3, 6, 6)], []
    model.stem[1].eval()  # a norm that is frozen on its own
    model.inner.register_forward_hook(lambda module, args, output: calls.append(module))
    doubled = model.depth.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    small = mipp.prune(model, batches, "units=60%", refit=False)
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in small.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    calls.clear()
    small(batches[0])
    assert calls == [small.inner]
    doubled.remove()
    assert len(small.depth._forward_pre_hooks) == 1
