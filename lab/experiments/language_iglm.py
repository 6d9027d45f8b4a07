"""IgLM and IgLM-S: pretrained causal language models of antibodies, in a wheel on PyPI.

IgLM (Shuai, Ruffolo and Gray 2023, Cell Systems 14) is a GPT-2 that was trained on 558 million
antibody sequences: 4 layers, 512 wide, 8 heads and 2,048 neurons each. IgLM-S has 3 layers, 192
wide, 6 heads and 768 neurons each. The wheel ``iglm`` 0.1.0 holds both; `lab.wheels` fetches it (53
MB). Its licence, the JHU Academic Software License, permits non-commercial use by academic and
non-profit institutions alone. The antibodies are those of antiberty.py.
"""

import json
import zipfile
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.experiments import antiberty
from lab.wheels import wheel

FOLDERS = {"iglm": "iglm/trained_models/IgLM", "iglm-s": "iglm/trained_models/IgLM-S"}
SHAPE = (
    "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function",
    "layer_norm_epsilon",
)  # fmt: skip
_SPECIES = ("CAMEL", "HUMAN", "MOUSE", "RABBIT", "RAT", "RHESUS")
VOCABULARY = (
    *antiberty.VOCABULARY,
    *(f"[{name}]" for name in _SPECIES),
    "[HEAVY]",
    "[LIGHT]",
)
"""As in ``trained_models/vocab.txt`` of the wheel."""
BEFORE = tuple(VOCABULARY.index(name) for name in ("[HEAVY]", "[HUMAN]"))
"""What stands before the residues."""
LENGTH = antiberty.LENGTH + 1
"""Tokens of every example, with those before and [SEP]."""


def pretrained(name: str) -> nn.Module:
    """The net as transformers' own `GPT2LMHeadModel`, in evaluation mode."""
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415 - an extra

    with zipfile.ZipFile(wheel("iglm")) as archive:
        settings = json.loads(archive.read(f"{FOLDERS[name]}/config.json"))
        with archive.open(f"{FOLDERS[name]}/pytorch_model.bin") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    shape = {part: settings[part] for part in SHAPE}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None))
    # the rest are causal masks that older versions kept as buffers
    model.load_state_dict({part: state[part] for part in model.state_dict()})
    return model.eval()


def batches(sequences: Sequence[str], size: int) -> list[dict[str, Tensor]]:
    """Chains as `GPT2LMHeadModel` takes them: ``[HEAVY] [HUMAN] residues [SEP]``, then padding.

    ``labels`` are the residues, and `antiberty.IGNORED` everywhere else.
    """
    tokens = torch.full((len(sequences), LENGTH), antiberty.PAD)
    for row, sequence in zip(tokens, sequences, strict=True):
        letters = [VOCABULARY.index(letter) for letter in sequence]
        row[: len(letters) + 3] = torch.tensor([*BEFORE, *letters, antiberty.SEP])
    residue = (tokens > antiberty.MASK) & (tokens < len(antiberty.VOCABULARY))
    given = {
        "input_ids": tokens,
        "attention_mask": (tokens != antiberty.PAD).long(),
        "labels": tokens.masked_fill(~residue, antiberty.IGNORED),
    }
    parts = {name: tensor.split(size) for name, tensor in given.items()}
    return [dict(zip(parts, part, strict=True)) for part in zip(*parts.values(), strict=True)]
