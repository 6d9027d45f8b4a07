"""Texts as tokens, by the tokenizer of the model or another."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mipp.cli.file_rows import Read, Rows, classes_in, json_lines, padded, read_words
from mipp.cli.model_names import HUGGING_FACE
from mipp.cli.own_code import package, said
from mipp.cli.tasks import MASKED
from mipp.errors import FileError, InputError

if TYPE_CHECKING:
    from mipp.cli.datasets import DataOptions
    from mipp.cli.model_names import Network

LENGTH = 128
"""Tokens in one example, where the model takes so many."""
BATCH = 8
"""Texts in one batch: the scores of all tokens of a vocabulary are many numbers."""
HIDDEN = 0.15
"""Share of the tokens that a masked language model has to predict, as in BERT."""
IGNORED = -100


def read_text(path: Path, name: str, network: "Network", options: "DataOptions") -> Read:
    """A file of text, cut into examples of one length.

    Raises:
        FileError: it cannot be read, or is too short.
        InputError: there is no tokenizer, or one of another model.
    """
    tokenizer = _tokenizer(name, network, options)
    ids = _encoded(tokenizer, [read_words(path, name)])[0]
    return _in_blocks(ids, tokenizer, name, network, options)


def read_text_rows(
    path: Path, name: str, network: "Network", options: "DataOptions"
) -> Read | None:
    """Lines of JSON with a text each, and maybe a label; None where they have no text.

    Texts without labels are joined, as a file of text; with labels, each is an example.

    Raises:
        FileError: the file is damaged.
        InputError: there is no tokenizer, or one of another model.
    """
    lines = list(json_lines(path, name))
    if "text" not in lines[0]:
        return None
    texts = [line["text"] for line in lines]
    if not all(isinstance(text, str) for text in texts):
        raise FileError(f'--data {name}: a text is no string; expected {{"text": "..."}}.')
    tokenizer = _tokenizer(name, network, options)
    key = next((key for key in ("label", "labels") if key in lines[0]), None)
    if key is None:
        end = tokenizer.eos_token_id
        ids = [
            t for row in _encoded(tokenizer, texts) for t in (*row, *([end] * (end is not None)))
        ]
        return _in_blocks(ids, tokenizer, name, network, options)
    labels = [line[key] for line in lines]
    if not all(isinstance(label, int) for label in labels):
        raise FileError(f"--data {name}: a {key} is no whole number; expected class indices.")
    length = _length(network, options)
    found = tokenizer(texts, truncation=True, max_length=length, verbose=False)["input_ids"]
    _check_vocabulary(found, name, network)
    rows, mask = padded(found, tokenizer.pad_token_id or 0)
    target = torch.tensor(labels)
    inputs = {"input_ids": torch.tensor(rows), "attention_mask": mask}
    return Read(Rows(inputs, target, lone=False), batch=BATCH, classes=classes_in(target))


def _in_blocks(
    ids: Sequence[int], tokenizer: Any, name: str, network: "Network", options: "DataOptions"
) -> Read:
    """Examples of one length; for a masked language model with some tokens hidden."""
    masked = options.task == MASKED
    length = _length(network, options)
    first = [tokenizer.cls_token_id] if masked and tokenizer.cls_token_id is not None else []
    last = [tokenizer.sep_token_id] if masked and tokenizer.sep_token_id is not None else []
    own = length - len(first) - len(last)
    count = len(ids) // own if own > 0 else 0
    if count < 2:
        raise FileError(
            f"--data {name} is {len(ids)} tokens long; expected at least two examples of {length}. "
            f"Give a longer text, or fewer tokens for each example, such as --input {length // 4}."
        )
    blocks = [[*first, *ids[n * own : (n + 1) * own], *last] for n in range(count)]
    _check_vocabulary(blocks, name, network)
    tokens = torch.tensor(blocks)
    inputs, target = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, None
    if masked:
        inputs["input_ids"], target = _hidden(tokens, tokenizer, options.seed)
    return Read(Rows(inputs, target, lone=False), batch=BATCH, in_order=True)


def _hidden(tokens: torch.Tensor, tokenizer: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens with some replaced by the mask, and those alone as what to predict."""
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"--task {MASKED} needs a tokenizer with a mask token, and this one has none. Give "
            "--tokenizer FOLDER, or another --task."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(tokens.shape, generator=generator) < HIDDEN
    for special in (tokenizer.cls_token_id, tokenizer.sep_token_id):
        if special is not None:
            chosen &= tokens != special
    chosen[:, 1] |= ~chosen.any(1)  # at least one in each example
    return tokens.masked_fill(chosen, tokenizer.mask_token_id), tokens.masked_fill(~chosen, IGNORED)


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return found


def _length(network: "Network", options: "DataOptions") -> int:
    """Tokens in one example: of ``--input``, or 128 where the model takes so many."""
    longest = network.longest
    if options.shape is None:
        return LENGTH if longest is None else min(LENGTH, longest)
    if not options.shape.isdecimal() or int(options.shape) < 2:
        raise InputError(
            f"--input {options.shape}: for texts it is the number of tokens in an example; "
            "expected a whole number, at least 2."
        )
    if longest is not None and int(options.shape) > longest:
        raise InputError(
            f"--input {options.shape}: {network.name} takes {longest} tokens at most. Give no more."
        )
    return int(options.shape)


def _tokenizer(name: str, network: "Network", options: "DataOptions") -> Any:
    folder = options.tokenizer or (Path(network.folder) if network.folder else None)
    if folder is None:
        raise InputError(
            f"--data {name} needs a tokenizer, and {network.name} comes without one. Give "
            f"--tokenizer FOLDER; models of {HUGGING_FACE}:FOLDER use that of their folder."
        )
    transformers = package("transformers", f"--data {name}")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise InputError(
            f"--data {name} needs a tokenizer, and there is none in {folder}: {said(error)}. Save "
            "it there (tokenizer.save_pretrained), or give --tokenizer FOLDER."
        ) from error


def _check_vocabulary(rows: Sequence[Sequence[int]], name: str, network: "Network") -> None:
    largest = max(max(row, default=0) for row in rows)
    if network.vocabulary is not None and largest >= network.vocabulary:
        raise InputError(
            f"--data {name}: the tokenizer gives token {largest}, and {network.name} knows "
            f"{network.vocabulary}; expected the tokenizer of the model. Give --tokenizer FOLDER."
        )
