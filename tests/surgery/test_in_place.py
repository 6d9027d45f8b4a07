"""A model that is pruned in place computes what its pruned copy does, and is still the same one."""

import copy

import pytest
import torch
from torch import nn

import mipp
from mipp import surgery
from mipp.surgery import become


class Net(nn.Module):
    """Convolutions, a norm, attention, and a layer with two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 12, 1)
        self.words, self.head = nn.Linear(12, 8), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8))
        self.again = self.inner[0]  # a second name

    def forward(self, x):
        x = self.mix(self.norm(self.conv(x)).relu()).flatten(2).mT
        x = self.words(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(self.inner(x).mean(1))


def pruned(optimizers=()):
    net, images = Net().eval(), torch.randn(16, 3, 6, 6)
    plan = mipp.plan(net, [images], "units=60%", noise=0.1)
    small = plan.apply()
    twin, record = copy.deepcopy(net), plan.record
    aliases, before = plan.traced.aliases, net.state_dict(keep_vars=True)
    modules = list(net.modules())
    for optimizer in optimizers:
        optimizer(net)
    expected = small(images)
    become(net, small, record.kept(), aliases, record.sizes)
    return net, twin, images, expected, before, modules


def test_it_computes_what_the_pruned_copy_does_and_is_the_same_object_in_all_its_parts():
    net, twin, images, expected, before, modules = pruned()
    assert net(images).equal(expected)
    assert not torch.allclose(expected, twin(images))
    assert list(map(id, net.modules())) == list(map(id, modules))
    now = net.state_dict(keep_vars=True)
    assert all(now[name] is before[name] for name, _ in net.named_parameters())
    assert net.again is net.inner[0]
    assert net.conv.out_channels == net.norm.num_features == net.conv.weight.shape[0] < 16
    assert net.attention.num_heads < 4
    assert net.inner[0].out_features < 24


def test_it_can_be_saved_and_pruned_again(tmp_path):
    net, _, images, expected, *_ = pruned()
    mipp.save(net, tmp_path / "small.safetensors")
    assert mipp.load(Net, tmp_path / "small.safetensors").eval()(images).equal(expected)
    plan = mipp.plan(net, [images], "units=70%", noise=0.1)
    smaller = plan.apply()
    expected = smaller(images)
    become(net, smaller, plan.record.kept(), plan.traced.aliases, plan.record.sizes)
    assert net(images).equal(expected)
    mipp.save(net, tmp_path / "smaller.safetensors")
    assert mipp.load(Net, tmp_path / "smaller.safetensors").eval()(images).equal(expected)


def step(net, optimizer, x):
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_an_optimizer_goes_on_as_the_one_that_remap_makes(kind):
    x, net = torch.randn(32, 4), mlp()
    keywords = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(net.parameters(), lr=0.1, **keywords)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(3):
        step(net, optimizer, x)
    schedule.step()
    plan = mipp.plan(net, [x], "units=50%")
    small, other = plan.apply(), plan.apply()
    reference = plan.remap(optimizer, other)
    become(net, small, plan.record.kept(), optimizers=[optimizer])
    for _ in range(3):
        step(net, optimizer, x)
        step(other, reference, x)
    assert all(
        mine.equal(its) for mine, its in zip(net.parameters(), other.parameters(), strict=True)
    )
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_gradients_fit_although_a_graph_of_before_is_still_held():
    x, net = torch.randn(32, 4), mlp()
    held = net(x)
    plan = mipp.plan(net, [x], "units=50%")
    small = plan.apply()
    become(net, small, plan.record.kept())
    net(x).sum().backward()
    assert net[0].weight.grad.shape == net[0].weight.shape == (5, 4)
    assert held.shape == (32, 2)


def test_an_optimizer_may_have_parameters_of_another_model():
    x, net, other = torch.randn(32, 4), mlp(), nn.Linear(2, 2)
    optimizer = torch.optim.Adam([*other.parameters(), *net.parameters()])
    other(net(x)).sum().backward()
    optimizer.step()
    momentum = optimizer.state[other.weight]["exp_avg"]
    plan = mipp.plan(net, [x], "units=50%")
    become(net, plan.apply(), plan.record.kept(), optimizers=[optimizer])
    assert optimizer.state[other.weight]["exp_avg"] is momentum
    assert optimizer.state[net[0].weight]["exp_avg"].shape == (5, 4)


def test_state_that_cannot_be_sliced_is_refused_and_nothing_is_changed():
    x, net = torch.randn(32, 4), mlp()
    optimizer = torch.optim.Adam(net.parameters())
    optimizer.state[net[0].weight]["odd"] = torch.zeros(7)
    plan = mipp.plan(net, [x], "units=50%")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(mipp.errors.InputError, match=r"state odd of 0\.weight has shape \(7,\)"):
        become(net, plan.apply(), plan.record.kept(), optimizers=[optimizer])
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert surgery.original_indices(net) == {}
