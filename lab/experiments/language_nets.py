"""Causal language models, their calibration and test examples, and their quality."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from lab.experiments import antiberty, language_iglm, language_llama, language_text

Examples = list[dict[str, Tensor]]
"""Batches that a causal language model of transformers takes, with labels."""
IGLM_S, IGLM, LLAMA = "iglm-s", "iglm", "llama"
NAMES = (IGLM_S, LLAMA, IGLM)
N_CALIBRATION = {IGLM_S: 128, IGLM: 128, LLAMA: 64}
"""Antibody chains, or windows of text, which have twice as many tokens."""
N_TEST = {IGLM_S: 64, IGLM: 64, LLAMA: 32}
"""The same, of the test."""
BATCH = 16


@dataclass(frozen=True)
class Subject:
    """A trained net with its text.

    Attributes:
        model: The net, never changed.
        test: Examples that nothing was trained or calibrated on.
        answers: `log_probabilities` of the net for the test.
        facts: Where the net comes from, as JSON.
    """

    name: str
    model: nn.Module
    test: Examples
    answers: list[Tensor]
    facts: Mapping[str, str]

    @staticmethod
    def of(name: str, model: nn.Module, test: Examples, facts: Mapping[str, str]) -> "Subject":
        """The net with its answers for the test."""
        answers = [log_probabilities(model, batch) for batch in test]
        return Subject(name, model, test, answers, facts)

    def quality(self, model: nn.Module) -> dict[str, float]:
        """Of a model that the net was pruned to, on the test, with the divergence from the net."""
        return quality(model, self.test, self.answers)

    def calibration(self, seed: int) -> Examples:
        """Examples of one draw, from the text that is not tested on."""
        number = N_CALIBRATION[self.name]
        if self.name == LLAMA:
            tokens = language_llama.trained().train
            length = language_llama.LENGTH
            return of_windows(language_text.drawn(tokens, length, number, seed))
        rest, _ = chains()
        picked = random.Random(seed).sample(rest, number)  # noqa: S311 - no secret
        return language_iglm.batches(picked, BATCH)


@cache
def subject(name: str) -> Subject:
    """The net of that name, one of `NAMES`."""
    if name == LLAMA:
        trained = language_llama.trained()
        windows = language_text.windows(trained.test, language_llama.LENGTH)
        # from all over the modules held out
        number = N_TEST[name]
        chosen = windows[torch.arange(number) * len(windows) // number]
        facts = {**trained.log, "bytes a token": f"{trained.test_bytes / len(trained.test):.3f}"}
        return Subject.of(name, trained.model, of_windows(chosen), facts)
    test = language_iglm.batches(chains()[1][: N_TEST[name]], BATCH)
    return Subject.of(name, language_iglm.pretrained(name), test, {})


@cache
def chains() -> tuple[list[str], list[str]]:
    """Antibodies for calibration, and those of other clones for the test."""
    return antiberty.split(128)


def of_windows(tokens: Tensor) -> Examples:
    """Windows of text, every token of which is a label."""
    return [{"input_ids": part, "labels": part} for part in tokens.split(BATCH)]


def asked(batch: Mapping[str, Tensor]) -> Tensor:
    """Positions whose next token is a label, shape ``(examples, length - 1)``."""
    return batch["labels"][:, 1:] != antiberty.IGNORED


def log_probabilities(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Of every next token that is asked for, shape ``(asked, vocabulary)``."""
    given = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = model(**given, use_cache=False).logits[:, :-1]
    return logits[asked(batch)].float().log_softmax(-1)


def quality(
    model: nn.Module, examples: Examples, whole: Sequence[Tensor] | None = None
) -> dict[str, float]:
    """Mean cross-entropy in nats of a next token, and how often the likeliest is right.

    Args:
        model: Put into evaluation mode.
        examples: The text.
        whole: `log_probabilities` of the whole net, for each batch. Then there is a ``divergence``,
            too: the mean Kullback-Leibler divergence from them, in nats.
    """
    nats, right, number, away = 0.0, 0, 0, 0.0
    model.eval()
    for i, batch in enumerate(examples):
        found, wanted = log_probabilities(model, batch), batch["labels"][:, 1:][asked(batch)]
        nats += float(nn.functional.nll_loss(found, wanted, reduction="sum"))
        right += int((found.argmax(1) == wanted).sum())
        number += len(wanted)
        if whole is not None:
            away += float((whole[i].exp() * (whole[i] - found)).sum())
    made = {"nats": nats / number, "accuracy": right / number, "tokens": number}
    return made if whole is None else made | {"divergence": away / number}


def by_frequency(examples: Examples) -> float:
    """Nats of guessing by how often each token occurs: what needs no net."""
    labels = torch.cat([batch["labels"][:, 1:][asked(batch)] for batch in examples])
    share = torch.bincount(labels) / len(labels)
    return float(-share[labels].log().mean())
