"""Recurrent layers: hidden features are units, through all layers and directions of a module."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp import statistics, surgery
from mipp.graph import cost, trace
from mipp.planning import prunable_graph

from .checks import counted, groups, refusals, units
from .slicing import random_keep

X = torch.randn(4, 4, 5)


class Net(nn.Module):
    """An embedding of steps, recurrent layers, a hidden layer and an output."""

    def __init__(self, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(5, 6)
        self.rnn = kind(6, 7, batch_first=True, **options)
        wide = (self.rnn.proj_size or 7) * (2 if self.rnn.bidirectional else 1)
        self.a, self.out = nn.Linear(wide, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(F.relu(self.a(self.states(F.relu(self.embed(x))))))

    def states(self, x):
        return self.rnn(x)[0][:, -1]


class LastState(Net):
    def states(self, x):
        made, last = self.rnn(x)
        return made.mean(1) + (last if isinstance(last, torch.Tensor) else last[0])[-1]


class OwnStart(Net):
    """Begins with zeros of its own, of a size that it keeps."""

    def __init__(self, kind, **options):
        super().__init__(kind, **options)
        self.n_hidden = 7

    def states(self, x):
        start = torch.zeros(1, len(x), self.n_hidden, dtype=x.dtype)
        made = self.rnn(x, (start, start) if isinstance(self.rnn, nn.LSTM) else start)[0]
        return made.reshape(len(x), -1, self.n_hidden)[:, -1]


NETS = {
    "LSTM": lambda: Net(nn.LSTM),
    "GRU": lambda: Net(nn.GRU),
    "RNN": lambda: Net(nn.RNN),
    "stacked LSTM": lambda: Net(nn.LSTM, num_layers=3, bias=False),
    "bidirectional GRU": lambda: Net(nn.GRU, bidirectional=True),
    "stacked bidirectional LSTM": lambda: Net(nn.LSTM, num_layers=2, bidirectional=True),
    "projected LSTM": lambda: Net(nn.LSTM, num_layers=2, proj_size=4, bidirectional=True),
    "last state of a GRU": lambda: LastState(nn.GRU, num_layers=2),
    "last state of an LSTM": lambda: LastState(nn.LSTM),
    "LSTM with a start": lambda: OwnStart(nn.LSTM),
    "GRU with a start": lambda: OwnStart(nn.GRU),
}


@pytest.mark.parametrize("name", NETS)
def test_hidden_features_go_in_every_gate_and_masked_is_sliced(name, tmp_path):
    model = NETS[name]().double().eval()
    graph = prunable_graph(model, statistics.read_batches([X.double()], None))
    n_units = model.rnn.proj_size or 7
    weight = "weight_hr_l0" if model.rnn.proj_size else "weight_ih_l0"
    (group,) = (group for group in graph.groups if group.producers[0].tensor == f"rnn.{weight}")
    assert (group.n_units, [graph.consumers[c].name for c in group.consumers]) == (n_units, ["a"])
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(3), share)
        kept = surgery.kept_indices(graph, keep)
        sizes = surgery.attribute_keeps(graph, kept)
        small = surgery.slice_model(model, kept, graph.aliases, sizes)
        left = int(keep[group.index].sum())
        assert (small.rnn.proj_size or small.rnn.hidden_size) == left
        same = surgery.same_outputs(surgery.mask_model(model, graph, keep), small, (X.double(),))
        assert same.ok, same.message
        assert same.difference < 1e-12
        now = cost(graph, keep)
        assert (now.macs, now.params) == counted(small, X.double())
        surgery.save(small, tmp_path / "small.safetensors")
        back = surgery.load(NETS[name]().double().eval(), tmp_path / "small.safetensors")
        assert torch.equal(back(X.double()), small(X.double()))


def test_gates_layers_and_directions_share_their_units():
    graph = trace(Net(nn.LSTM, num_layers=2, bidirectional=True), (X,))
    name = "rnn.weight_ih_l0"
    once = [f"{name}.{unit}" for unit in range(7)]
    for tensor in ("rnn.weight_ih_l0", "rnn.bias_hh_l1_reverse", "rnn.weight_hh_l1"):
        assert units(graph, tensor, 0) == " ".join(once * 4)
    assert units(graph, "rnn.weight_ih_l1", 1) == units(graph, "a.weight", 1) == " ".join(once * 2)
    assert units(graph, "rnn.weight_hh_l0_reverse", 1) == " ".join(once)


def test_what_a_recurrent_layer_reads_stays():
    graph = trace(Net(nn.GRU), (X,))
    assert list(groups(graph)) == ["a", "rnn.weight_ih_l0"]
    assert refusals(graph)["embed"][0][1].startswith("a recurrent layer reads it in its kernel")


def test_a_start_that_is_given_keeps_the_hidden_features():
    class Given(Net):
        def forward(self, x, start):
            return self.out(F.relu(self.a(self.rnn(self.embed(x), start)[0][:, -1])))

    graph = trace(Given(nn.GRU), (X, torch.zeros(1, 4, 7)))
    assert list(groups(graph)) == ["a"]
    assert refusals(graph)["rnn.weight_ih_l0"][0][0] == 21


class Cells(nn.Module):
    """Cells in a loop, and how their states begin."""

    def __init__(self, *cells, start=lambda net, cell, x: None):
        super().__init__()
        self.embed, self.cells = nn.Linear(5, 6), nn.ModuleList(cells)
        self.a, self.out, self.start = nn.Linear(7, 8), nn.Linear(8, 2), start
        self.begin = nn.Parameter(torch.randn(7))

    def forward(self, x):
        states = [self.start(self, cell, x) for cell in self.cells]
        for t in range(x.shape[1]):
            y = F.relu(self.embed(x[:, t]))
            for i, cell in enumerate(self.cells):
                states[i] = cell(y, states[i])
                y = states[i][0] if isinstance(states[i], tuple) else states[i]
        return self.out(F.relu(self.a(y)))


CELLS = {
    "LSTM": lambda: Cells(nn.LSTMCell(6, 7)),
    "GRU": lambda: Cells(nn.GRUCell(6, 7)),
    "RNN": lambda: Cells(nn.RNNCell(6, 7)),
    "RNN of ReLUs": lambda: Cells(nn.RNNCell(6, 7, bias=False, nonlinearity="relu")),
    "two": lambda: Cells(nn.GRUCell(6, 7), nn.LSTMCell(7, 7)),
    "zeros of the layer's size": lambda: Cells(
        nn.GRUCell(6, 7), start=lambda net, cell, x: x.new_zeros(len(x), cell.hidden_size)
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_hidden_features_of_a_cell_go_in_every_gate_and_masked_is_sliced(name):
    model = CELLS[name]().double().eval()
    graph = prunable_graph(model, statistics.read_batches([X.double()], None))
    weight = f"cells.{len(model.cells) - 1}.weight_ih"
    (group,) = (group for group in graph.groups if group.name == weight)
    assert (group.n_units, [graph.consumers[c].name for c in group.consumers]) == (7, ["a"])
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(3), share)
        small = surgery.slice_model(model, surgery.kept_indices(graph, keep), graph.aliases, ())
        assert small.cells[-1].hidden_size == int(keep[group.index].sum())
        same = surgery.same_outputs(surgery.mask_model(model, graph, keep), small, (X.double(),))
        assert (same.ok, same.message, same.difference < 1e-12) == (True, "", True)
        now = cost(graph, keep)
        assert (now.macs, now.params) == counted(small, X.double())


def test_a_start_that_is_learned_goes_with_the_hidden_features_of_a_cell():
    model = Cells(nn.GRUCell(6, 7), start=lambda net, cell, x: net.begin.expand(len(x), -1))
    model.double().eval()
    graph = prunable_graph(model, statistics.read_batches([X.double()], None))
    assert units(graph, "begin", 0) == " ".join(f"cells.0.weight_ih.{unit}" for unit in range(7))


def test_zeros_of_a_size_in_numbers_keep_the_hidden_features_of_a_cell():
    model = Cells(nn.GRUCell(6, 7), start=lambda net, cell, x: x.new_zeros(len(x), 7)).eval()
    graph = prunable_graph(model, statistics.read_batches([X], None))
    assert list(groups(graph)) == ["a"]
    ((n_units, reason),) = refusals(graph)["cells.0.weight_ih"]
    assert n_units == 7
    assert reason.startswith("RuntimeError: hidden0 has inconsistent hidden_size")


def test_a_cell_whose_weights_are_computed_is_refused_and_counted():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.cell, self.a = nn.Linear(5, 6), nn.GRUCell(6, 7), nn.Linear(7, 8)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            state = x.new_zeros(len(x), 7)
            for t in range(x.shape[1]):
                w = (self.cell.weight_ih * 2, self.cell.weight_hh * 2)
                state = torch.gru_cell(self.embed(x[:, t]), state, *w)
            return self.out(F.relu(self.a(state)))

    model = Twice().double().eval()
    graph = trace(model, (X.double(),))
    assert list(groups(graph)) == ["a"]
    assert cost(graph).macs == counted(model, X.double())[0]
