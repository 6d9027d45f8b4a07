"""Attributes that equal a width and are not read by the forward pass: followed, or named."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Split(nn.Module):
    """As ultralytics' C2f: exporters call ``forward_split``, which reads ``c``."""

    def __init__(self, n_in, n_out, c, *, shortcut):
        super().__init__()
        self.c, self.shortcut = c, shortcut
        self.cv1 = nn.Sequential(nn.Conv2d(n_in, 2 * c, 1), nn.BatchNorm2d(2 * c))
        self.m = nn.ModuleList([Inner(c, shortcut), Inner(c, shortcut)])
        self.cv2 = nn.Conv2d(4 * c, n_out, 1)

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))

    def forward_split(self, x):
        y = list(self.cv1(x).split((self.c, self.c), 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Inner(nn.Module):
    def __init__(self, c, shortcut):
        super().__init__()
        self.a, self.b, self.shortcut = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1), shortcut

    def forward(self, x):
        y = self.b(F.relu(self.a(x)))
        return x + y if self.shortcut else y


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_second_forward_shows_which_width_an_attribute_counts(shortcut, tmp_path):
    model = nn.Sequential(Split(3, 6, 8, shortcut=shortcut), nn.Conv2d(6, 2, 1)).eval()
    assert torch.allclose(model[0].forward_split(IMAGES), model[0](IMAGES))
    plan = mipp.plan(model, [IMAGES], budget="units=50%", noise=0.1, allocation="priced")
    small = plan.apply()
    assert small[0].cv1[0].out_channels == 2 * small[0].c < 16
    torch.testing.assert_close(small[0].forward_split(IMAGES), small[0](IMAGES))
    assert model[0].c == 8
    mipp.save(small, tmp_path / "small.safetensors")
    again = mipp.load(model, tmp_path / "small.safetensors")
    assert again[0].c == small[0].c
    assert mipp.Plan.from_json(plan.to_json(), model).apply(refit=False)[0].c == small[0].c


class Beside(nn.Module):
    """``reading`` is read beside the forward pass alone; other widths may be as large."""

    def __init__(self, name, *, middle=16, size=16):
        super().__init__()
        setattr(self, name, size)
        self.reading = name
        self.a, self.b, self.c_ = nn.Linear(6, 16), nn.Linear(16, middle), nn.Linear(middle, 3)

    def forward(self, x):
        return self.c_(F.relu(self.b(F.relu(self.a(x)))))


class WithChannels(Beside):
    def state(self):
        return torch.zeros(self.hidden)


class WithPatches(Beside):
    def grid(self):
        return self.n_patches


class Built(Beside):
    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.more()

    def more(self):
        return self.hidden


def planned(model):
    return mipp.plan(model.eval(), [X], budget="units=50%", noise=0.1)


def test_classes_are_not_told_of_the_copies_that_are_watched():
    """Registries note what is derived from a class, and forwards can look at their own."""
    registry = {}

    class Base(nn.Module):
        def __init_subclass__(cls, *, key, **options):
            super().__init_subclass__(**options)
            registry[key] = cls

    class Registered(Base, key="net"):
        def __init__(self):
            super().__init__()
            self.hidden = 16
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x):
            if type(self) is not Registered:
                raise RuntimeError("no copies")
            return self.b(F.relu(self.a(x)))

        def state(self):
            return torch.zeros(self.hidden)

    small = planned(Registered()).apply()
    assert registry == {"net": Registered}
    assert small.a.out_features < 16


@pytest.mark.parametrize(
    "model",
    [
        lambda: WithChannels("hidden", middle=16),  # two widths are as large
        lambda: WithChannels("hidden", middle=12),  # one, and such a name, but that may be chance
        lambda: WithPatches("n_patches", middle=12),  # one, but that may be chance
        lambda: WithChannels("hidden", middle=12, size=6),  # the input's width, which stays
    ],
    ids=["two widths", "one width", "another name", "a width that stays"],
)
def test_what_is_not_known_stays_and_is_named(model):
    model = model()
    value = vars(model)[model.reading]
    plan = planned(model)
    prunable = value == 16
    assert plan.record.unsure == ({model.reading: 16} if prunable else {})
    if not prunable:
        plan.apply()
        return
    assert f"not changed: {model.reading} = 16, as wide as what was pruned; not read" in str(plan)
    again = mipp.Plan.from_json(plan.to_json(), model)
    for one in (plan, again):
        with pytest.warns(UserWarning, match=rf"{model.reading} = 16: as wide.*set it on the pru"):
            small = one.apply(refit=False)
        assert vars(small)[model.reading] == 16


def test_what_only_the_constructor_reads_is_of_no_interest():
    assert planned(Built("hidden")).record.unsure == {}


class Read(nn.Module):
    """The forward pass reads ``hidden``, which is no width, and another method does, too."""

    anchors = torch.empty(0)  # class attributes may be anything

    def __init__(self):
        super().__init__()
        self.a, self.b, self.hidden = nn.Linear(6, 16), nn.Linear(16, 3), 16

    def forward(self, x):
        return self.b(self.a(x).clamp(max=self.hidden))

    def described(self):
        return (), [self.hidden for _ in range(2)]


def test_what_the_forward_pass_reads_is_covered_by_its_check():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = planned(Read()).apply()
    assert small.hidden == 16
    assert type(small) is Read
