"""Feature maps: which activation they come from, and what stands in where there is none."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.methods.shared.maps import watch_maps

from .nets import Normed, data, jitter_norms, plain, question


def watched(model, batches, **asked):
    """Maps by group name, in the order they were seen."""
    found = {}
    ask = question(model, batches, **asked)
    watch_maps(
        ask, list(batches), lambda group, maps: found.setdefault(group.name, []).append(maps)
    )
    return found, ask


def read(*inputs):
    return mipp.statistics.read_batches(list(inputs))


class PoolFirst(nn.Module):
    """As LeNet is often written: the activation comes after pooling, as a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 5, 3, padding=1), nn.Linear(20, 3)

    def forward(self, x):
        return self.head(torch.relu(nn.functional.max_pool2d(self.conv(x), 2)).flatten(1))


def test_a_map_is_what_the_activation_gives_before_and_after_pooling():
    x = torch.randn(6, 2, 4, 4)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True),
                          nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3))  # fmt: skip
    jitter_norms(model).eval()
    maps = watched(model, read(x))[0]["0"]
    assert len(maps) == 1
    torch.testing.assert_close(maps[0].values.float(), model[:2](x).relu())
    assert maps[0].unit.tolist() == [0, 1, 2, 3, 4]
    pooled = PoolFirst()
    maps = watched(pooled, read(x))[0]["conv"]
    expected = nn.functional.max_pool2d(pooled.conv(x), 2).relu()
    torch.testing.assert_close(maps[0].values.float(), expected)


def test_a_stream_has_the_maps_of_all_its_activations():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = self.stem(x).relu()
            x = (x + self.inner(x)).relu()
            return self.head(x.mean((2, 3)))

    model, x = Two(), torch.randn(3, 2, 2, 2)
    maps = watched(model, read(x))[0]["stem"]
    first = model.stem(x).relu()
    torch.testing.assert_close(maps[0].values.float(), first)
    torch.testing.assert_close(maps[1].values.float(), (first + model.inner(first)).relu())


def test_without_an_activation_it_is_what_the_next_layers_take_in():
    x = torch.randn(6, 2, 4, 4)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(5, 4, 2),
                          nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))  # fmt: skip
    maps = watched(model, read(x))[0]
    torch.testing.assert_close(maps["0"][0].values.float(), model[:2](x))
    torch.testing.assert_close(maps["2"][0].values.float(), model[:4](x))


def test_units_that_are_gone_have_no_maps_and_others_keep_their_numbers():
    model, batches = plain(), data(dtype=torch.float32)
    graph = question(model, batches).graph
    keep = {g.index: np.arange(g.n_units) % 2 == 1 for g in graph.groups}
    found, _ = watched(model, batches, keep=keep)
    assert found["0"][0].unit.tolist() == [1, 3]
    assert found["6"][0].values.shape == (20, 3)  # single numbers, of three neurons
    assert found["6"][0].rows().shape == (1, 3, 20)
    assert found["0"][0].rows().shape == (20, 2, 16)


def test_nothing_is_left_behind_in_the_model():
    model, batches = jitter_norms(Normed()), data(dtype=torch.float32)
    ask = question(model, batches)
    ask.model.train()

    def fail(group, maps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_maps(ask, batches, fail)
    assert ask.model.training
    assert all(p.requires_grad for p in ask.model.parameters())
    assert not any(module._forward_hooks for module in ask.model.modules())


class Joined(nn.Module):
    """A stream of which one half runs through an activation on its way, and the other does not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.c, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.head(self.joined(x)).mean((2, 3))

    def joined(self, x):
        return torch.cat([self.a(x).relu(), self.b(x)], 1) + self.c(x)


def test_where_an_activation_has_only_some_of_the_units_all_are_seen_as_the_next_layers_do():
    model, x = Joined(), torch.randn(6, 2, 4, 4)
    maps = watched(model, read(x))[0]["a"]
    assert len(maps) == 1
    assert maps[0].unit.tolist() == list(range(8))
    torch.testing.assert_close(maps[0].values.float(), model.joined(x))
    for method in (mipp.methods.HRank(), mipp.methods.CHIP()):
        assert (method.score(question(model, read(x)))[0] > 0).all()


def test_a_layer_that_is_called_with_keywords_in_any_order_is_seen():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return nn.functional.linear(bias=self.b.bias, weight=self.b.weight, input=self.a(x))

    model, x = Keywords(), torch.randn(5, 4)
    torch.testing.assert_close(watched(model, read(x))[0]["a"][0].values.float(), model.a(x))


def test_maps_that_cannot_be_had_or_are_not_finite_are_errors(monkeypatch):
    model, batches = plain(), data(dtype=torch.float32)
    with torch.no_grad():
        model[3].bias[1] = float("inf")
    for name in ("hrank", "chip"):
        with pytest.raises(errors.CalibrationError, match="Feature maps of group 3 are not finite"):
            mipp.plan(model, batches, "units=50%", method=name)
    monkeypatch.setattr("mipp.methods.shared.maps._LAYERS", {})
    with pytest.raises(errors.InputError, match=r"Feature maps of group . cannot be had"):
        watched(plain(), batches)
