"""Which positions count in the losses of real models that get labels."""

import copy
import warnings

import pytest
import torch

import mipp
from mipp.integrations.distillation import distil, divergence
from mipp.methods import Question
from mipp.methods.shared.gradients import task_loss
from mipp.problem import calibration
from mipp.records import ChannelGraph
from mipp.statistics.loss import sampled_loss, settle
from tests.integrations.transformers import models

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
NOTHING = ChannelGraph((), (), {}, (), {}, ())


def bert_of_tokens():
    return transformers.BertForTokenClassification(
        transformers.BertConfig(**models.TEXT, num_labels=5)
    )


SHIFTING = {"gpt2": models.gpt2, "llama": models.llama, "mixtral": models.mixtral}
IN_PLACE = {"bert": models.bert, "bert of tokens": bert_of_tokens, "t5": models.t5}
ALL = SHIFTING | IN_PLACE


def texts(n_classes, *, whole=False):
    """Tokens and labels: all of them, or a stretch, which is not the same in every text."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(3, 30, (12, 9), generator=generator)
    labels = tokens % n_classes
    if not whole:
        places, start = torch.arange(9), torch.arange(12)[:, None] % 4 + 1
        labels = labels.masked_fill((places < start) | (places > start + 3), -100)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def made(name, **settings):
    torch.manual_seed(0)
    given = texts(5 if name == "bert of tokens" else 30, **settings)
    model = ALL[name]().eval()
    output = model(**given)
    (gradient,) = torch.autograd.grad(output.loss, output.logits, retain_graph=True)
    return model, given, output, (gradient != 0).any(-1)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_the_loss_counts_where_that_of_the_model_does(name, whole):
    model, given, output, read = made(name, whole=whole)
    (batch,) = calibration(model, [given], None)
    assert batch.shifted is (name in SHIFTING)
    assert settle("auto", output, batch.target)[0] == "categorical"
    logits = output.logits.detach().requires_grad_()
    loss = sampled_loss("categorical", {"logits": logits}, batch, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal((gradient != 0).any(-1), read)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_so_do_the_cross_entropy_of_logits_alone_and_plans_for_the_logits_alone(name):
    model, given, output, _ = made(name)
    (batch,) = calibration(model, [given], None)
    question = Question(model, NOTHING, [batch], "auto", 0)
    # the batch says how, not the output
    alone = task_loss(question, {"logits": output.logits}, batch)
    torch.testing.assert_close(alone, output.loss)
    whole = mipp.plan(model, [given], "units=50%")
    assert mipp.plan(model, [given], "units=50%", outputs=lambda o: o.logits).keep == whole.keep


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_tuning_measures_the_same_positions(name):
    whole, given, _, read = made(name)
    small = copy.deepcopy(whole)
    with torch.no_grad():
        for p in small.parameters():
            p.mul_(1.1)
    same = {key: values[:1].repeat(8, 1) for key, values in given.items()}  # whatever is held out
    with torch.no_grad():
        apart = divergence(small(**given).logits, whole(**given).logits, 1.0)[0][read[0]].mean()
    with warnings.catch_warnings(action="ignore"):
        tuned = mipp.tune(small, whole, [same], mipp.Tune(passes=1, learning_rate=1e-12))
    assert tuned.unit == "nats"
    assert tuned.before == pytest.approx(float(apart), rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_distillation_counts_the_same_positions(name):
    model, given, _, read = made(name)
    student = copy.deepcopy(model)
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(1.1)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):  # of T5's attention
            module.dropout = 0.0
    student.train()
    found = student(**given)
    apart = divergence(found.logits, model(**given).logits)[read].mean()
    distil(student, model, weight=0.25)
    for _ in range(2):
        loss = student(**given).loss
        torch.testing.assert_close(loss, 0.75 * found.loss + 0.25 * apart)
    loss.backward()
