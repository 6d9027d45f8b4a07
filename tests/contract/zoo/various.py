"""Networks of vectors, sets and graphs, and models of unusual form."""

import torch
from torch import nn
from torch.nn import functional as F

from .entry import N_EXAMPLES, N_TOKENS, entry, floats

VECTOR = floats((6,))


@entry("MLP", "various", VECTOR)
def mlp():
    return nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10),
        nn.BatchNorm1d(10), nn.GELU(), nn.Linear(10, 8), nn.SiLU(), nn.Linear(8, 3),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.bn, self.fc1 = nn.BatchNorm1d(width), nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x):
        return x + self.fc2(F.relu(self.fc1(self.bn(x))))


@entry("residual MLP", "various", VECTOR)
def residual():
    return nn.Sequential(nn.Linear(6, 8), Residual(8, 10), Residual(8, 5), nn.Linear(8, 3))


class Highway(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.change, self.carry = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        gate = torch.sigmoid(self.carry(x))
        return gate * F.relu(self.change(x)) + (1 - gate) * x


@entry("highway network", "various", VECTOR)
def highway():
    return nn.Sequential(nn.Linear(6, 8), Highway(8), Highway(8), nn.Linear(8, 3))


class Maxout(nn.Module):
    def __init__(self, read, made, pieces=2):
        super().__init__()
        self.linear, self.pieces = nn.Linear(read, made * pieces), pieces

    def forward(self, x):
        return self.linear(x).view(x.shape[0], -1, self.pieces).amax(-1)


@entry("maxout", "various", VECTOR)
def maxout():
    return nn.Sequential(Maxout(6, 8), Maxout(8, 6), nn.Linear(6, 3))


class Siamese(nn.Module):
    """The same network twice; the distance of what it makes is put out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 5))
        self.out = nn.Linear(5, 1)

    def forward(self, left, right):
        return self.out((self.body(left) - self.body(right)).abs())


entry("siamese network", "various", floats((6,), (6,)))(Siamese)


class WideAndDeep(nn.Module):
    """Numbers and categories, joined."""

    def __init__(self):
        super().__init__()
        self.table, self.wide = nn.Embedding(N_TOKENS, 5), nn.Linear(4, 6)
        self.deep = nn.Sequential(nn.Linear(11, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU())
        self.out = nn.Linear(8 + 4, 2)

    def forward(self, numbers, kinds):
        x = torch.cat([self.wide(numbers).relu(), self.table(kinds)], 1)
        return self.out(torch.cat([self.deep(x), numbers], 1))


def tabular():
    numbers = torch.randn(N_EXAMPLES, 4, dtype=torch.float64)
    return {"numbers": numbers, "kinds": torch.randint(0, N_TOKENS, (N_EXAMPLES,))}


entry("wide and deep, named inputs", "various", tabular)(WideAndDeep)


class Factorized(nn.Module):
    """Embeddings of a user and of an item are multiplied, beside an MLP (NCF)."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(N_TOKENS, 6), nn.Embedding(N_TOKENS, 6)
        self.fc, self.out = nn.Linear(12, 8), nn.Linear(8 + 6, 1)

    def forward(self, pair):
        user, item = self.user(pair["user"]), self.item(pair["item"])
        deep = self.fc(torch.cat([user, item], -1)).relu()
        return {"score": self.out(torch.cat([user * item, deep], -1))}


def users():
    return ({k: torch.randint(0, N_TOKENS, (N_EXAMPLES,)) for k in ("user", "item")},)


entry("factorized, a dict in and out", "various", users)(Factorized)


class Interactions(nn.Module):
    """Products of all pairs of embeddings (DLRM)."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(N_TOKENS, 6) for _ in range(3))
        self.fc, self.out = nn.Linear(9, 8), nn.Linear(8, 1)

    def forward(self, kinds):
        rows = torch.stack([table(kinds[:, i]) for i, table in enumerate(self.tables)], 1)
        return self.out(self.fc((rows @ rows.transpose(1, 2)).flatten(1)).relu())


entry(
    "interactions of embeddings", "various", lambda: (torch.randint(0, N_TOKENS, (4, 3)),),
    stays=("a product of two activations sums over it",),
)(Interactions)  # fmt: skip


class Functional(nn.Module):
    """Weights of its own, multiplied in three ways."""

    def __init__(self):
        super().__init__()
        self.first, self.shift = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
        self.second, self.third = nn.Parameter(torch.randn(8, 7)), nn.Parameter(torch.randn(5, 7))
        self.scale, self.last = nn.Parameter(torch.ones(5)), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(F.linear(x, self.first, self.shift))
        x = torch.tanh(x @ self.second)
        return self.last(F.linear(x, self.third).relu() * self.scale)


entry("functional parameters", "various", VECTOR)(Functional)


class TiedCoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self):
        super().__init__()
        self.encode, self.inner = nn.Linear(6, 9), nn.Linear(9, 9)
        self.shift = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        hidden = self.inner(self.encode(x).relu()).relu()
        return F.linear(hidden, self.encode.weight.t(), self.shift)


entry("tied autoencoder", "various", VECTOR, stays=("reads channels that have to stay",))(TiedCoder)


class Dueling(nn.Module):
    """The value of a state and the advantage of each action (DQN); two outputs and a mean."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 10), nn.ReLU())
        self.value = nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 1))
        self.advantage = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        hidden = self.body(x)
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(1, keepdim=True)


entry(
    "dueling network", "various", VECTOR,
    stays=("it takes one number over all channels",),
)(Dueling)  # fmt: skip


class GraphConvolution(nn.Module):
    """What neighbours have is added up, by a matrix that is an input (GCN)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x, adjacency):
        x = F.relu(adjacency @ self.first(x))
        x = F.relu(torch.matmul(adjacency, self.second(x)))
        return self.out(x.mean(1))


entry("graph convolution, adjacency as input", "various", floats((6, 5), (6, 6)))(GraphConvolution)


class GraphAttention(nn.Module):
    """Neighbours are weighted by two learnt scores, one for each end (GAT)."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(5, 8), nn.Linear(8, 3)
        self.own, self.other = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x, adjacency):
        x = self.first(x)
        scores = F.leaky_relu(self.own(x) + self.other(x).transpose(1, 2))
        return self.out(F.elu(scores.masked_fill(adjacency < 0, -1e9).softmax(-1) @ x))


entry("graph attention", "various", floats((6, 5), (6, 6)))(GraphAttention)


class DeepSets(nn.Module):
    """Each element by itself, then their sum and their maximum (also PointNet)."""

    def __init__(self):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU())
        self.all = nn.Sequential(nn.Linear(14, 9), nn.ReLU(), nn.Linear(9, 2))

    def forward(self, x):
        made = self.each(x)
        return self.all(torch.cat([made.sum(1), made.max(1).values], -1))


entry("deep sets", "various", floats((5, 3)))(DeepSets)


class Points(nn.Module):
    """The mean of all points is laid beside each of them (PointNet, segmentation)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 8, 1)
        self.join, self.out = nn.Conv1d(14, 7, 1), nn.Conv1d(7, 4, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        whole = self.second(x).amax(2, keepdim=True).expand(-1, -1, x.shape[2])
        return self.out(F.relu(self.join(torch.cat([x, whole], 1))))


entry("PointNet", "various", floats((3, 6)))(Points)


class Field(nn.Module):
    """Sines of coordinates, the input again half-way, two outputs of which one is a number."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 10), nn.Linear(22, 8)
        self.density, self.colour = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([f(x * 2**i) for i in range(2) for f in (torch.sin, torch.cos)], -1)
        hidden = F.relu(self.second(torch.cat([F.relu(self.first(x)), x], -1)))
        return self.density(hidden).squeeze(-1), torch.sigmoid(self.colour(hidden))


entry("NeRF, skip of the input", "various", floats((3,)))(Field)


class Pooled(nn.Module):
    """A bag of words, and a bilinear layer over two views of it."""

    def __init__(self):
        super().__init__()
        self.bag, self.left, self.right = (
            nn.EmbeddingBag(N_TOKENS, 8),
            nn.Linear(8, 5),
            nn.Linear(8, 6),
        )
        self.both, self.last = nn.Bilinear(5, 6, 7), nn.Linear(7, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.bag(tokens)
        return self.out(F.relu(self.last(self.both(self.left(x), self.right(x)))))


entry(
    "bag of words, bilinear", "various", lambda: (torch.randint(0, N_TOKENS, (4, 5)),),
    stays=("mipp has no rule for aten.bilinear", "mipp has no rule for aten.embedding_bag"),
    uncounted="PyTorch counts no bilinear layers",
)(Pooled)  # fmt: skip


class Named(nn.Module):
    """Ordinary layers, with what people attach to them: hooks, buffers, a frozen part."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU())
        self.register_buffer("mean", torch.randn(7))
        self.out = nn.Linear(7, 3)
        self.body[0].requires_grad_(requires_grad=False)
        self.out.register_forward_hook(double)

    def forward(self, x):
        return self.out(self.body(x) - self.mean)


def double(module, args, output):
    return output * 2


entry("hooks, buffers, frozen weights", "various", VECTOR)(Named)


class Nothing(nn.Module):
    """One layer, whose outputs are the model's."""

    def __init__(self):
        super().__init__()
        self.only = nn.Linear(6, 3)

    def forward(self, x):
        return self.only(x)


entry(
    "one layer", "various", VECTOR, nothing="nothing in this model can be pruned",

)(Nothing)  # fmt: skip


class Branches(nn.Module):
    """Which way the data goes depends on its values."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.left(x) if x.sum() > 0 else self.right(x))


entry("branch on values", "various", VECTOR, nothing="torch.export cannot trace Branches")(Branches)


class Counted(nn.Module):
    """What it keeps is chosen by a comparison, so that the size depends on the values."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.out = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.inner(self.first(x).relu()).relu()
        best = x.sort(1, descending=True).values
        return self.out(x * (x >= best[:, 2:3]))


entry("k winners take all", "various", VECTOR, stays=("it mixes all channels",))(Counted)
