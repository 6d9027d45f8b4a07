"""A small Llama that the lab trains itself, on the sources of Python's standard library.

Six layers, 192 wide, 512 neurons each, 8 query heads of which two share a key and a value, and
1,024 tokens: 2.63 million parameters. `language_text` says what the text is. Four minutes of one
thread in bfloat16. The trained net, its vocabulary and its tokens are kept in the cache; a
training that is killed goes on from its last checkpoint.
"""

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from lab import parents
from lab.experiments import language_text
from mipp.atomic_files import replacing

VOCABULARY, LENGTH, BATCH = 1024, 256, 8
"""Tokens that there are, tokens of a window, windows of a step."""
SHAPE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
}
STEPS, WARM_UP, RATE, DECAY = 600, 100, 2e-3, 0.1
"""AdamW: so many steps, a warm-up to the rate, then linearly to a tenth; weight decay."""
EVERY = 50
"""Steps between two checkpoints."""


@dataclass(frozen=True)
class Trained:
    """The net in evaluation mode, its text, and how it was trained.

    Attributes:
        model: The net.
        train: Tokens of the text that it was trained on, shape ``(n,)``.
        test: Tokens of the modules held out, shape ``(m,)``.
        test_bytes: Bytes of the modules held out.
        log: Steps, seconds and versions.
    """

    model: nn.Module
    train: Tensor
    test: Tensor
    test_bytes: int
    log: Mapping[str, str]


def fresh(seed: int = 0, shape: Mapping[str, Any] = SHAPE) -> nn.Module:
    """The net before training, as transformers makes it."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - an extra

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**shape))


def folder() -> Path:
    """Where net, vocabulary and tokens lie."""
    return parents.cache() / f"llama-python{platform.python_version()}"


def trained(steps: int = STEPS) -> Trained:
    """The net of the cache, trained now if it is not there."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        tokens, test_bytes = _tokens(place)
        final = place / f"trained-{steps}.safetensors"
        model = fresh()
        if not final.exists():
            train(model, tokens["train"], place / f"checkpoint-{steps}.safetensors", final, steps)
        state, log = load_file(final), _metadata(final)
    model.load_state_dict(state, strict=False)  # the head is the embedding
    return Trained(model.eval(), tokens["train"], tokens["test"], test_bytes, log)


def train(
    model: nn.Module, tokens: Tensor, checkpoint: Path, final: Path, steps: int = STEPS
) -> None:
    """Trains from the checkpoint, where there is one, and writes the net to ``final``."""
    names = dict(model.named_parameters())
    optimizer = AdamW(names.values(), RATE, betas=(0.9, 0.95), weight_decay=DECAY, fused=True)
    done, seconds = _resumed(model, optimizer, checkpoint)
    loss = torch.tensor(float("nan"))
    model.train()
    for step in range(done, steps):
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = RATE * _share(step, steps)
        ids = language_text.drawn(tokens, LENGTH, BATCH, seed=1_000_000 + step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.process_time() - started
        if (step + 1) % EVERY == 0:
            _save(dict(_state(model, optimizer)), checkpoint, _log(step + 1, seconds, loss))
    log = _log(steps, seconds, loss) | {
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    _save({name: tensor.detach() for name, tensor in names.items()}, final, log)
    checkpoint.unlink(missing_ok=True)


def _log(steps: int, seconds: float, loss: Tensor) -> dict[str, str]:
    return {"steps": str(steps), "seconds": f"{seconds:.0f}", "loss": f"{loss.item():.4f}"}


def _share(step: int, steps: int) -> float:
    """Share of the highest rate."""
    warm = min(WARM_UP, steps // 6) or 1
    left = (steps - step) / max(1, steps - warm)
    return min((step + 1) / warm, 0.1 + 0.9 * left)


def _state(model: nn.Module, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.detach()
        for part, tensor in optimizer.state[parameter].items():
            yield f"{part}/{name}", tensor


def _resumed(model: nn.Module, optimizer: AdamW, checkpoint: Path) -> tuple[int, float]:
    """Steps and seconds that are done; weights and moments are loaded."""
    if not checkpoint.exists():
        return 0, 0.0
    state, log = load_file(checkpoint), _metadata(checkpoint)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(state[name])
        optimizer.state[parameter] = {
            part: state[f"{part}/{name}"] for part in ("step", "exp_avg", "exp_avg_sq")
        }
    return int(log["steps"]), float(log["seconds"])


def _tokens(place: Path) -> tuple[dict[str, Tensor], int]:
    """Tokens of both parts, made once, and bytes of the test's text."""
    path = place / "tokens.safetensors"
    if not path.exists():
        texts = language_text.split(language_text.modules())
        words = language_text.vocabulary(texts[0], VOCABULARY)
        (place / "vocabulary.json").write_text(words)
        made = {
            name: language_text.encoded(part, words)
            for name, part in zip(("train", "test"), texts, strict=True)
        }
        _save(made, path, {"test_bytes": str(sum(len(text.encode()) for text in texts[1]))})
    return load_file(path), int(_metadata(path)["test_bytes"])


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    with replacing(path) as partial:
        save_file(dict(tensors), partial, dict(metadata))


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open  # noqa: PLC0415 - beside its torch functions

    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found
