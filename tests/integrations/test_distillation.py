"""The loss of a pruned model, mixed with its divergence from the unpruned one."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mipp.errors import InputError
from mipp.integrations.distillation import distil, divergence


class Tagger(nn.Module):
    """Answers as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x, labels=None, num_items_in_batch=None):
        logits = self.inner(x)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def setting():
    student, teacher = Tagger(), Tagger()
    x, labels = torch.randn(2, 5, 4), torch.randint(0, 3, (2, 5))
    labels[0, 1] = -100
    return student, teacher, x, labels


def test_divergence_is_that_of_the_softened_distributions():
    a, b = torch.randn(7, 3), torch.randn(7, 3)
    p, q = torch.softmax(b / 2, 1), torch.softmax(a / 2, 1)
    expected = 4 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(divergence(a, b), expected)
    assert float(divergence(a, a).abs().max()) < 1e-6


def test_the_loss_is_mixed_over_labelled_positions_while_training_alone():
    student, teacher, x, labels = setting()
    plain = student(x, labels=labels).loss
    apart = divergence(student(x).logits, teacher(x).logits, 3.0)[labels != -100].mean()
    handle = distil(student, teacher, weight=0.25, temperature=3.0)
    torch.testing.assert_close(student(x, labels=labels).loss, 0.75 * plain + 0.25 * apart)
    of_a_step = student(x, labels=labels, num_items_in_batch=18).loss
    torch.testing.assert_close(of_a_step, 0.75 * plain + 0.25 * apart * 9 / 18)
    student(x, labels=labels).loss.backward()
    assert student.inner.weight.grad.abs().sum() > 0
    assert teacher.inner.weight.grad is None
    assert student.eval()(x, labels=labels).loss.equal(plain)
    handle.remove()
    assert student.train()(x, labels=labels).loss.equal(plain)


def test_a_copy_of_the_model_does_not_copy_the_teacher():
    student, teacher, x, labels = setting()
    distil(student, teacher)
    other = copy.deepcopy(student)
    before = other(x, labels=labels).loss
    with torch.no_grad():
        teacher.inner.bias += torch.tensor([3.0, 0.0, 0.0])
    assert not other(x, labels=labels).loss.isclose(before)


@pytest.mark.parametrize(("weight", "temperature"), [(0, 1), (1.1, 1), (0.5, 0)])
def test_numbers_out_of_their_range(weight, temperature):
    with pytest.raises(InputError, match=r"expected a share above 0 up to 1, and a temperature"):
        distil(Tagger(), Tagger(), weight, temperature)


def test_a_model_is_not_its_own_teacher():
    model = Tagger()
    with pytest.raises(InputError, match=r"its own teacher; expected a copy that is not pruned"):
        distil(model, model)
