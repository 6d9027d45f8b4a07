"""Text that every machine has: the sources of Python's standard library, as tokens.

All modules of ``sys.stdlib_module_names`` that are written in Python, without their tests and
without the tables of ``encodings``. The text depends on Python's version, so whatever is measured
with it names that. Whole modules are held out for the test.
"""

import random
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

LEFT_OUT = ("encodings", "test", "tests", "idle_test", "__pycache__", "site-packages")
"""Modules and folders without text worth learning, or that only some installations have."""
TEST_BYTES = 300_000
"""About how much text is held out, in bytes."""


def modules(folder: Path | None = None) -> dict[str, list[Path]]:
    """Source files of each module in the folder of the standard library, in alphabetical order."""
    root = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    found = {}
    for name in sorted(sys.stdlib_module_names):
        if name in LEFT_OUT or name.startswith("_sysconfigdata"):
            continue
        alone, package = root / f"{name}.py", root / name
        files = [alone] if alone.is_file() else sorted(package.rglob("*.py"))
        kept = [f for f in files if not set(LEFT_OUT) & set(f.relative_to(root).parts)]
        if kept:
            found[name] = kept
    return found


def split(
    found: dict[str, list[Path]], test_bytes: int = TEST_BYTES
) -> tuple[list[str], list[str]]:
    """Texts to train and calibrate on, and about ``test_bytes`` of other modules to test on.

    Only modules of a single short file are held out, so that the test has many subjects.
    """
    sizes = {name: files[0].stat().st_size for name, files in found.items() if len(files) == 1}
    order = [name for name, size in sizes.items() if size <= test_bytes / 10]
    random.Random(0).shuffle(order)  # noqa: S311 - a draw, no secret
    held_out: set[str] = set()
    total = 0
    for name in order:
        if total < test_bytes:
            held_out.add(name)
            total += sizes[name]
    parts: tuple[list[str], list[str]] = ([], [])
    for name, files in found.items():
        parts[name in held_out].extend(map(text_of, files))
    return parts


def text_of(file: Path) -> str:
    """The file's text, in whatever encoding it declares."""
    with tokenize.open(file) as opened:
        return opened.read()


def windows(tokens: Int[Tensor, " n"], length: int) -> Int[Tensor, "m length"]:
    """All whole windows of the text, one after the other; the rest at its end is left out."""
    return tokens[: len(tokens) // length * length].view(-1, length).long()


def drawn(tokens: Int[Tensor, " n"], length: int, number: int, seed: int) -> Tensor:
    """That many windows, shape ``(number, length)``, that begin anywhere in the text."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - length, (number, 1), generator=generator)
    return tokens[starts + torch.arange(length)].long()


def vocabulary(texts: Sequence[str], size: int) -> str:
    """A byte-level BPE learned from the texts, as the JSON of the package tokenizers.

    Every text is spelled without unknown tokens. Token 0, ``<end>``, stands between texts.
    """
    import tokenizers  # noqa: PLC0415 - an extra
    from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    text: str = made.to_str()
    return text


def encoded(texts: Sequence[str], vocabulary_json: str) -> Int[Tensor, " n"]:
    """All texts as one row of tokens, 16 bits each, with ``<end>`` after each text."""
    import tokenizers  # noqa: PLC0415 - an extra

    tokenizer = tokenizers.Tokenizer.from_str(vocabulary_json)

    def ids() -> Iterator[int]:
        for text in texts:
            yield from tokenizer.encode(text).ids
            yield 0

    return torch.tensor(list(ids()), dtype=torch.int16)
