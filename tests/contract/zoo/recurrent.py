"""Recurrent networks, and convolutions over time."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from .entry import N_TOKENS, TIED, entry, floats, tokens

SERIES = floats((7, 4))


class Tagger(nn.Module):
    """Tokens, a recurrent layer, a class for each step."""

    def __init__(self, rnn, width):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(N_TOKENS, 6), rnn
        self.hidden, self.out = nn.Linear(width, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        made, _ = self.rnn(self.embed(tokens))
        return self.out(F.relu(self.hidden(made)))


INSIDE = ("a recurrent layer reads it in its kernel",)


@entry("LSTM tagger", "recurrent", tokens(7), stays=INSIDE)
def lstm():
    return Tagger(nn.LSTM(6, 10, batch_first=True), 10)


@entry("GRU, stacked and bidirectional", "recurrent", tokens(7), stays=INSIDE)
def gru():
    return Tagger(nn.GRU(6, 8, 2, batch_first=True, bidirectional=True), 16)


@entry("LSTM with projection", "recurrent", tokens(7), stays=INSIDE)
def projected():
    return Tagger(nn.LSTM(6, 10, 2, batch_first=True, proj_size=5), 5)


class LastState(nn.Module):
    """Only the last state is read, and it is put out by the side."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.RNN(4, 9, nonlinearity="relu"), nn.Linear(9, 3)

    def forward(self, x):
        _, state = self.rnn(x.transpose(0, 1))
        return self.out(state[-1])


entry("RNN, last state", "recurrent", SERIES)(LastState)


class Recurrent(nn.Module):
    """Convolutions, then a recurrent layer over the columns of the picture (CRNN)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.rnn, self.out = nn.LSTM(20, 6, bidirectional=True, batch_first=True), nn.Linear(12, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 1))
        x = F.relu(self.conv2(x)).permute(0, 3, 1, 2).flatten(2)
        return self.out(self.rnn(x)[0])


entry("CRNN", "recurrent", floats((1, 8, 7)), stays=INSIDE)(Recurrent)


class Translate(nn.Module):
    """The last state of one layer is the first of the next; the steps of both meet in attention."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(N_TOKENS, 6), nn.Embedding(N_TOKENS, 6)
        self.encoder, self.decoder = nn.GRU(6, 8, batch_first=True), nn.GRU(6, 8, batch_first=True)
        self.join, self.out = nn.Linear(16, 9), nn.Linear(9, N_TOKENS)

    def forward(self, source, target):
        memory, state = self.encoder(self.source(source))
        made, _ = self.decoder(self.target(target), state)
        shares = (made @ memory.transpose(1, 2)).softmax(-1)
        return self.out(torch.tanh(self.join(torch.cat([made, shares @ memory], -1))))


entry(
    "recurrent encoder and decoder", "recurrent", tokens(7, 5),
    stays=(*INSIDE, "a product of two activations sums over it"),
)(Translate)  # fmt: skip


class Cell(nn.Module):
    """A cell in a loop of the code's own."""

    def __init__(self):
        super().__init__()
        self.first, self.cell = nn.Linear(4, 6), nn.GRUCell(6, 8)
        self.hidden, self.out = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        for step in F.relu(self.first(x)).unbind(1):
            state = self.cell(step, state)
        return self.out(F.relu(self.hidden(state)))


entry("GRU cell in a loop", "recurrent", floats((3, 4)), stays=INSIDE)(Cell)


class Causal(nn.Module):
    """Dilated convolutions that see only the past (TCN)."""

    def __init__(self, width, dilation):
        super().__init__()
        self.reach = 2 * dilation
        self.conv1 = nn.Conv1d(width, 7, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(7, width, 1)

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(F.pad(x, (self.reach, 0))))))


@entry("TCN", "recurrent", floats((3, 9)))
def tcn():
    return nn.Sequential(
        nn.Conv1d(3, 8, 1), Causal(8, 1), Causal(8, 2), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


class GatedConv(nn.Module):
    """WaveNet's layer: a gate, a residual and a skip; ``norm`` may compute the weights."""

    def __init__(self, width, norm, *, last=False):
        super().__init__()
        self.filter = norm(nn.Conv1d(width, 7, 2, padding=1, dilation=2))
        self.gate = norm(nn.Conv1d(width, 7, 2, padding=1, dilation=2))
        self.same, self.skip = None if last else nn.Conv1d(7, width, 1), nn.Conv1d(7, 6, 1)

    def forward(self, x):
        made = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
        return x if self.same is None else x + self.same(made), self.skip(made)


class WaveNet(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.stem, self.out = nn.Conv1d(2, 8, 1), nn.Conv1d(6, 3, 1)
        self.layers = nn.ModuleList([GatedConv(8, norm), GatedConv(8, norm, last=True)])

    def forward(self, x):
        x, skips = self.stem(x), 0
        for layer in self.layers:
            x, skip = layer(x)
            skips = skips + skip
        return self.out(F.relu(skips))


@entry("WaveNet", "recurrent", floats((2, 8)))
def wavenet():
    return WaveNet(lambda layer: layer)


@entry(
    "WaveNet, weight norm", "recurrent", floats((2, 8)),
    stays=("the weight of this layer is computed, .* mipp.prepare.folded",),
)  # fmt: skip
def wavenet_normed():
    return WaveNet(parametrizations.weight_norm)


class Selective(nn.Module):
    """A gated branch with a short depthwise convolution over time (as around a state space)."""

    def __init__(self):
        super().__init__()
        self.norm, self.into = nn.LayerNorm(4), nn.Linear(4, 20)
        self.conv = nn.Conv1d(10, 10, 3, padding=2, groups=10)
        self.rate, self.back = nn.Parameter(torch.rand(10)), nn.Linear(10, 4)

    def forward(self, x):
        y, gate = self.into(self.norm(x)).chunk(2, -1)
        y = F.silu(self.conv(y.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        y = torch.cumsum(y * torch.sigmoid(self.rate), 1)
        return x + self.back(y * F.silu(gate))


entry("gated state space, simplified", "recurrent", SERIES, stays=(TIED,))(Selective)
