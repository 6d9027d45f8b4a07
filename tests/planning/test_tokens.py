"""Texts: padding is not measured, lengths may differ, and the loss is that of the tokens."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors, graph, statistics, surgery
from mipp.methods import Question
from mipp.methods.shared.gradients import task_loss
from mipp.problem import calibration
from mipp.statistics.loss import class_scores, sampled_loss, settle

LENGTHS = (3, 7, 5, 6, 7, 4, 2, 7)


class Reader(nn.Module):
    """Logits for each token, from the token and the mean of the text; Hugging Face's manners."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.wide = nn.Linear(6, 12)
        self.narrow = nn.Linear(12, 6)
        self.head = nn.Linear(6, 11)

    def forward(self, input_ids, attention_mask=None, labels=None):
        x = self.embedding(input_ids)
        seen = (attention_mask if attention_mask is not None else torch.ones_like(input_ids)) > 0
        mean = (x * seen.unsqueeze(2)).sum(1, keepdim=True) / seen.sum(1)[:, None, None]
        logits = self.head(self.narrow(self.wide(x + mean).relu()))
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def reader():
    torch.manual_seed(3)
    return Reader().eval()


def texts(fill, repeats=8):
    """One batch, padded with ``fill``; and the same texts one by one, without padding."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS * repeats)
    tokens = torch.randint(0, 11, (len(lengths), 7), generator=generator)
    mask = torch.arange(7) < lengths.unsqueeze(1)
    labels = torch.where(mask & (torch.rand(mask.shape, generator=generator) < 0.5), tokens, -100)
    labels[:, 0] = tokens[:, 0]
    padded = {
        "input_ids": torch.where(mask, tokens, fill), "attention_mask": mask.long(),
        "labels": labels,
    }  # fmt: skip
    single = [
        {"input_ids": t[None, :n], "attention_mask": torch.ones(1, n, dtype=torch.long)}
        for t, n in zip(tokens, lengths.tolist(), strict=True)
    ]
    return padded, single


def second_moments(batches):
    model = reader()
    read = [statistics.read_batch(batch) for batch in batches]
    traced = graph.trace(model, (), dict(read[0].part(0, 2).kwargs))
    consumers = dict(enumerate(traced.consumers))
    made, _ = statistics.capture(model, consumers, read, loss=None)
    return [(s.rows, s.mean, s.covariance) for s in made.values()]


def test_padding_is_not_measured():
    padded, single = texts(9)
    for (rows, mean, covariance), (n, one_mean, one) in zip(
        second_moments([padded]), second_moments(single), strict=True
    ):
        assert rows == n == sum(LENGTHS) * 8
        torch.testing.assert_close(mean, one_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(covariance, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"noise": 0.1}, {"method": "taylor"}, {"method": "obs"},
                                     {"confidence": 0.9}])  # fmt: skip
def test_what_stands_in_the_padding_changes_nothing(options):
    budget = None if "confidence" in options else "units=50%"
    plans = [mipp.plan(reader(), [texts(fill)[0]], budget, **options) for fill in (9, 0)]
    assert plans[0].keep == plans[1].keep
    for first, second in zip(
        plans[0].apply().parameters(), plans[1].apply().parameters(), strict=True
    ):
        torch.testing.assert_close(first, second)


def test_texts_of_different_lengths_are_padded_to_the_longest():
    padded, _ = texts(0, repeats=2)
    short = {name: value[:, :5] for name, value in texts(0, repeats=2)[0].items()}
    read = statistics.read_batches([short, padded])
    assert [tuple(t.shape) for t in read[0].tensors()] == [(16, 7)] * 3
    assert read[0].kwargs["attention_mask"][:, 5:].sum() == 0
    assert bool((read[0].kwargs["labels"][:, 5:] == -100).all())
    assert bool((read[0].target[:, 5:] == -100).all())
    assert torch.equal(read[1].kwargs["input_ids"], padded["input_ids"])
    plan = mipp.plan(reader(), [short, padded], "units=50%")
    assert plan.apply()(**short)["logits"].shape == (16, 5, 11)
    with pytest.raises(errors.CalibrationError, match="attention_mask of shape"):
        statistics.read_batches(
            [{"input_ids": short["input_ids"]}, {"input_ids": padded["input_ids"]}]
        )
    with pytest.raises(errors.CalibrationError, match="one shape and dtype"):
        statistics.read_batches([short, padded | {"more": torch.zeros(16, 2)}])


def test_classes_of_tokens_stand_last_where_targets_or_the_name_say_so():
    tokens, maps = torch.zeros(4, 7, 11), torch.zeros(4, 11, 7)
    labels = torch.zeros(4, 7, dtype=torch.long)
    for output, target, dim in [
        (tokens, labels, 2), (maps, labels, 1), (maps, None, 1), ({"logits": tokens}, None, 2),
        ({"logits": torch.zeros(4, 5, 5)}, labels[:, :5], 2), (torch.zeros(4, 3), None, 1),
        ({"loss": torch.tensor(1.0), "logits": tokens, "hidden_states": (maps,)}, labels, 2),
        ({"logits": torch.zeros(4, 5, 8, 8)}, None, 1),
    ]:  # fmt: skip
        scores, found = class_scores(output, target)
        assert found == dim, (output, target)
        assert scores.shape[dim] > 1
    assert class_scores({"logits": tokens, "pred_boxes": tokens}, None) is None
    assert settle("auto", {"logits": tokens}, None)[0] == "categorical"
    assert settle("auto", {"logits": tokens, "loss": torch.tensor(0.0)}, labels)[0] == "categorical"
    assert settle("auto", tokens, None)[0] == "gaussian"


@pytest.mark.parametrize("labels", [True, False])
def test_only_tokens_that_are_asked_for_count_in_the_loss(labels):
    padded, _ = texts(9, repeats=1)
    asked = padded["labels"] != -100 if labels else padded["attention_mask"] > 0
    given = padded if labels else {n: v for n, v in padded.items() if n != "labels"}
    logits = torch.randn(8, 7, 11, requires_grad=True)
    batch = statistics.read_batch(given)
    sampled_loss("categorical", {"logits": logits}, batch, torch.Generator()).backward()
    assert torch.equal(logits.grad.abs().sum(2) > 0, asked)


class Next(Reader):
    """Shifts its labels, smooths them, and adds something that has nothing to do with them."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = super().forward(input_ids, attention_mask)["logits"]
        self.calls = getattr(self, "calls", 0) + 1
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1
        )
        return {"loss": loss + self.wide.weight.square().mean(), "logits": logits}


@pytest.mark.parametrize("kind", [Next, Reader])
@pytest.mark.parametrize("trained", [True, False])
def test_the_loss_of_a_model_says_whether_it_shifts_its_labels(kind, trained):
    model, padded = kind().requires_grad_(trained), texts(9)[0]
    nothing = padded | {"labels": torch.full_like(padded["labels"], -100)}
    with torch.no_grad():
        read = calibration(model, [nothing, padded], None)
    assert [batch.shifted for batch in read] == [kind is Next] * 2
    assert not hasattr(model, "calls")
    assert model.training
    assert all(p.requires_grad is trained for p in model.parameters())
    labels = padded["labels"]
    if kind is Next:
        wanted = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)
        assert torch.equal(read[1].aligned, wanted)
        assert torch.equal(read[1].part(3, 7).at(torch.tensor([1])).aligned, wanted[4:5])
    else:
        assert torch.equal(read[1].aligned, labels)


def test_targets_that_the_model_does_not_get_are_not_shifted():
    padded, _ = texts(9)
    labels = padded.pop("labels")

    class Ignoring(Next):
        def forward(self, input_ids, attention_mask=None, labels=None):
            return super().forward(input_ids, attention_mask)

    for model, batch in ((Next(), (padded, labels)), (Ignoring(), padded | {"labels": labels})):
        (read,) = calibration(model, [batch], None)
        assert not read.shifted
        assert torch.equal(read.aligned, labels)


def test_a_loss_of_your_own_gets_the_labels_as_they_are():
    padded, _ = texts(9)
    got = []

    def loss(output, target):
        got.append(target)
        return output["loss"]

    mipp.plan(Next(), [padded], "units=50%", loss=loss)
    assert torch.equal(got[0], padded["labels"])


def test_methods_that_need_the_loss_take_the_one_that_the_model_returns():
    padded, _ = texts(9)
    model, batch = reader(), statistics.read_batch(padded)
    traced = graph.trace(model, (), dict(batch.part(0, 2).kwargs))
    question = Question(model, traced, [batch], "auto", 0)
    output = model(**padded)
    assert task_loss(question, output, batch) == output["loss"]
    # and without it the same is worked out from the logits
    left = {"logits": output["logits"]}
    torch.testing.assert_close(task_loss(question, left, batch), output["loss"])


def test_a_batch_of_padding_alone_is_passed_over():
    padded, _ = texts(9)
    nothing = {n: torch.zeros_like(v) for n, v in padded.items()} | {
        "labels": torch.full_like(padded["labels"], -100)
    }
    nothing["attention_mask"][:, 0] = 0
    plans = [mipp.plan(reader(), given, "units=50%") for given in ([padded], [padded, nothing])]
    # the mean over no token is no number: such a batch is told, not measured
    assert plans[0].keep == plans[1].keep
    assert np.isfinite(plans[1].summary[0].nats_before)
    assert surgery.same_outputs(plans[1].apply(False), plans[1].mask(), (), padded).ok
