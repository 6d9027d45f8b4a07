"""How a model is traced: on which example, without noise, and what is said when it fails."""

import logging
import traceback
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from torch import nn

from mipp.errors import GraphError, InputError
from mipp.graph import cost, trace, unwrap
from mipp.graph.exported import export

from .checks import groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.a(x).relu())


X = torch.randn(8, 3)


# ---- the example


def test_a_state_with_the_examples_in_another_dimension_is_traced_as_given():
    class Recurrent(Net):
        def __init__(self):
            super().__init__()
            self.g = nn.GRU(3, 3, batch_first=True)

        def forward(self, x, state):
            return super().forward(self.g(x, state)[0][:, -1])

    exported = export(Recurrent(), (torch.randn(8, 5, 3), torch.zeros(1, 8, 3)), {})
    assert exported.batch == 8


def test_edges_beside_nodes_are_counted_for_all_nodes():
    class OnEdges(Net):
        def forward(self, x, edges):
            messages = self.a(x[edges[0]])  # one position for each edge
            return self.out(torch.zeros(x.shape[0], 6).index_add(0, edges[1], messages).relu())

    graph = trace(OnEdges(), (X, torch.randint(0, 8, (2, 20))))
    assert cost(graph).macs == 3 * 6 * 20 / 8 + 6 * 2


def test_examples_that_can_be_cut_are_traced_with_two_of_them():
    assert export(Net(), (X,), {}).batch == 2


# ---- programs that are no Python


@pytest.fixture
def unchecked():
    """Without the type checks of the test suite: what a caller sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("program", "maker"),
    [
        (lambda: torch.export.export(Net(), (X,)), "model is a program that torch.export has made"),
        (
            lambda: torch.export.export(Net(), (X,)).module(),
            "model is a program that torch.export has made",
        ),
        (
            lambda: nn.Sequential(torch.export.export(Net(), (X,)).module()),
            "model.0 is a program that torch.export has made",
        ),
    ],
)
def test_exported_programs_are_refused_with_what_to_give(program, maker, unchecked):
    with pytest.raises(InputError, match=f"{maker}, .*Give the model from which it was made"):
        unwrap(program())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripts_are_refused_with_what_to_give():
    with pytest.raises(InputError, match=r"model is a program that torch\.jit has made"):
        unwrap(torch.jit.trace(Net(), X))


def test_a_module_that_fx_has_traced_is_taken():
    assert list(groups(trace(torch.fx.symbolic_trace(Net()), (X,)))) == ["a"]


# ---- failures


class Branches(Net):
    def forward(self, x):
        for _ in range(50):
            x = x + 1
        if x.sum() > 0:
            return super().forward(x)
        return self.out(self.a(x))


class Narrow(Net):
    def forward(self, x):
        return super().forward(x[:, :2])


@pytest.mark.parametrize("model", [Branches, Narrow])
def test_a_failed_trace_is_one_message_with_the_users_line(model, capfd):
    with pytest.raises(GraphError) as caught:
        trace(model(), (X,))
    out, err = capfd.readouterr()
    assert out + err == ""
    code = "if x.sum() > 0:" if model is Branches else "return super().forward(x[:, :2])"
    assert code in str(caught.value) or "return self.out(self.a(x).relu())" in str(caught.value)
    assert len(str(caught.value)) < 1200
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("\n") < 30
    assert caught.value.__context__ is not None
    assert "__context__" in "".join(caught.value.__notes__)


def test_torchs_loggers_are_as_before_after_a_failure():
    logger = logging.getLogger("torch")
    before = logger.level
    for level in (logging.WARNING, logging.DEBUG):
        logger.setLevel(level)
        try:
            with pytest.raises(GraphError):
                trace(Branches(), (X,))
            assert logger.level == level
        finally:
            logger.setLevel(before)


# ---- the cache of language models


class Cached(nn.Module):
    """Gives what cannot be traced, unless it is told to keep no cache."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x, use_cache=True):
        made = self.net(x)
        return SimpleNamespace(made=made) if use_cache else made


class Adapter(nn.Module):
    """Hands on whatever it gets, as wrappers of adapters do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize(
    "model", [Cached(), Adapter(Cached()), Adapter(Adapter(Cached()))], ids=["0", "1", "2"]
)
def test_the_cache_is_turned_off_however_deep_it_is_wrapped(model):
    graph = trace(model, (X,))
    assert [name.split(".")[-1] for name in groups(graph)] == ["a"]


def test_a_wrapper_that_hands_on_no_keywords_gets_none():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Cached()

        def forward(self, x):
            return self.inner(x).made

    assert list(groups(trace(Plain(), (X,)))) == ["inner.net.a"]


def test_keywords_that_go_to_another_module_than_the_one_with_a_cache():
    class Decoder(Net):
        def forward(self, x, use_cache=False):
            return super().forward(x)

    class Encoder(nn.Module):
        def forward(self, x, scale=1.0):
            return x * scale

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Encoder(), Decoder()

        def forward(self, x, **kwargs):
            return self.decoder(self.encoder(x, **kwargs))

    assert [group.name for group in trace(Both(), (X,)).groups] == ["decoder.a"]
