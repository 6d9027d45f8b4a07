"""A pretrained transformer and text for it, both out of packages on PyPI.

AntiBERTy (Ruffolo, Gray and Sulam 2021, arXiv 2112.07782; MIT licence) is a BERT of 8 layers, 512
wide, 8 heads and 2048 neurons each, trained to fill in masked residues of 558 million antibody
sequences. The wheel ``antiberty`` 0.1.3 holds its weights. The wheel ``abstar`` 0.8.0 (MIT licence)
holds antibodies of people as test data: a thousand heavy chains read by a 454 sequencer, and the
heavy chains of two hundred antibodies against HIV. `lab.wheels` fetches both on first use (98 MB).

Whether these chains, or some like them, are among the 558 million is not known: what is measured is
how much of the net's quality pruning leaves, not the quality.
"""

import itertools
import json
import random
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lab.wheels import wheel

WEIGHTS = "antiberty/trained_models/AntiBERTy_md_smooth"
CHAINS = ("abstar/test_data/test_1k.fasta", "abstar/test_data/test_hiv_bnab_hcs.fasta")
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS)
PAD, CLS, SEP, MASK = (VOCABULARY.index(f"[{name}]") for name in ("PAD", "CLS", "SEP", "MASK"))
LENGTH = 136
"""Tokens of every example, with [CLS] and [SEP]; longer chains (one in a hundred) are left out."""
MASKED = 0.15
"""Share of the residues that are masked, as in the net's training."""
TAG = "CGTGTCTCT"
"""What the sequencer's reads begin with, two bases before the gene: no antibody."""
IGNORED = -100
"""Label of a residue that is not asked for, as in transformers."""

_BASES = "TCAG"
_RESIDUES = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_CODONS = {
    "".join(codon): residue
    for codon, residue in zip(itertools.product(_BASES, repeat=3), _RESIDUES, strict=True)
}
# the end of the variable domain: ...Y Y C, the third loop, W G x G x x V T V S S
_END = re.compile(r"[YFHS][YFHSCW]C([A-Z]{3,36})W[A-Z]{2}G[A-Z]{2}V[A-Z]{2}S[A-Z]")


def pretrained() -> nn.Module:
    """AntiBERTy as transformers' own `BertForMaskedLM`: what its masked-residue head needs."""
    from transformers import BertConfig, BertForMaskedLM  # noqa: PLC0415 - an extra

    with zipfile.ZipFile(wheel("antiberty")) as archive:
        settings = json.loads(archive.read(f"{WEIGHTS}/config.json"))
        with archive.open(f"{WEIGHTS}/pytorch_model.bin") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    shape = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    more = ("intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps")
    model = BertForMaskedLM(BertConfig(**{name: settings[name] for name in (*shape, *more)}))
    wanted = model.state_dict()
    # the rest are heads for species, chain and grafting, a pooler, and a buffer of positions
    model.load_state_dict({name: state[name] for name in wanted})
    return model.eval()


def chains() -> list[str]:
    """Heavy-chain variable domains without repeats, as letters, in the order of the files."""
    found: dict[str, None] = {}
    with zipfile.ZipFile(wheel("abstar")) as archive:
        for member in CHAINS:
            for bases in _fasta(archive.read(member).decode()):
                residues = _translated(bases)
                end = None if residues is None else _END.search(residues)
                if end is not None and 90 <= end.end() <= LENGTH - 2:
                    found[end.string[: end.end()]] = None
    return list(found)


def clones(sequences: Sequence[str]) -> list[int]:
    """A number for each chain: the same for those that may descend from one cell.

    Third loops of one length that differ in at most 30 % of their residues, and whatever is linked
    by a chain of such pairs: the usual rule.
    """
    loops = [match[1] for match in map(_END.search, sequences) if match is not None]
    clone = list(range(len(loops)))

    def root(i: int) -> int:
        while clone[i] != i:
            i = clone[i]
        return i

    for i, j in itertools.combinations(range(len(loops)), 2):
        a, b = loops[i], loops[j]
        if len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) <= 0.3 * len(a):
            clone[root(j)] = root(i)
    return [root(i) for i in range(len(loops))]


def split(n_test: int) -> tuple[list[str], list[str]]:
    """Chains to calibrate and train on, and about ``n_test`` to test on; no clone is in both."""
    sequences = chains()
    families: dict[int, list[str]] = {}
    for sequence, clone in zip(sequences, clones(sequences), strict=True):
        families.setdefault(clone, []).append(sequence)
    order = list(families.values())
    random.Random(0).shuffle(order)  # noqa: S311 - a draw, no secret
    test: list[str] = []
    rest: list[str] = []
    for family in order:
        (test if len(test) < n_test else rest).extend(family)
    return rest, test[:n_test]


def batches(sequences: Sequence[str], size: int, seed: int) -> list[dict[str, Tensor]]:
    """Masked chains as `BertForMaskedLM` takes them; ``seed`` draws the masks.

    ``labels`` are the residues under the masks, and ``IGNORED`` everywhere else.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(sequences), LENGTH), PAD)
    for row, sequence in zip(tokens, sequences, strict=True):
        letters = [VOCABULARY.index(letter) for letter in sequence]
        row[: len(letters) + 2] = torch.tensor([CLS, *letters, SEP])
    residue = tokens > MASK
    # every chain has so many masks, so that no batch is without
    draw = torch.rand(tokens.shape, generator=generator).masked_fill(~residue, 2.0)
    number = (MASKED * residue.sum(1, keepdim=True)).round().long()
    asked = draw.argsort(1).argsort(1) < number
    given = {
        "input_ids": tokens.masked_fill(asked, MASK),
        "attention_mask": (tokens != PAD).long(),
        "labels": tokens.masked_fill(~asked, IGNORED),
    }
    parts = {name: tensor.split(size) for name, tensor in given.items()}
    return [dict(zip(parts, part, strict=True)) for part in zip(*parts.values(), strict=True)]


def quality(model: nn.Module, examples: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Cross-entropy in nats and accuracy, over all masked residues."""
    nats, right, n_masked = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for batch in examples:
            asked = batch["labels"] != IGNORED
            given = {name: value for name, value in batch.items() if name != "labels"}
            logits = model(**given).logits[asked]
            labels = batch["labels"][asked]
            nats += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
            n_masked += len(labels)
    return {"nats": nats / n_masked, "accuracy": right / n_masked, "masked": n_masked}


def by_frequency(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The same of always guessing by how often each residue occurs: what needs no net."""
    labels = torch.cat([batch["labels"][batch["labels"] != IGNORED] for batch in examples])
    share = torch.bincount(labels, minlength=len(VOCABULARY)) / len(labels)
    nats = -(share[labels].log().mean())
    return {"nats": float(nats), "accuracy": float(share.max()), "masked": len(labels)}


def _fasta(text: str) -> list[str]:
    entries = text.split(">")[1:]
    return ["".join(entry.splitlines()[1:]).upper() for entry in entries]


def _translated(bases: str) -> str | None:
    """The longest stretch without a stop, over the three frames; None if a base was not read."""
    read = bases[len(TAG) + 2 :] if bases.startswith(TAG) else bases
    codons = [[read[i : i + 3] for i in range(start, len(read) - 2, 3)] for start in range(3)]
    frames = ["".join(_CODONS.get(codon, "X") for codon in frame) for frame in codons]
    best = max((part for frame in frames for part in frame.split("*")), key=len, default="")
    return None if "X" in best else best


def sizes() -> dict[str, Any]:
    """How many chains, clones and residues there are."""
    sequences = chains()
    return {
        "chains": len(sequences),
        "clones": len(set(clones(sequences))),
        "residues": sum(map(len, sequences)),
    }
