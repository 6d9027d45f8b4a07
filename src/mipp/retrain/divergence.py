"""How far predictions are from those of a teacher."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def divergence(
    logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    temperature: float = 2.0,
) -> Float[Tensor, "*batch"]:
    """Divergence of each prediction from the teacher's, in nats, times the temperature squared.

    The factor keeps the size of the gradients (Hinton, Vinyals & Dean 2015).

    Args:
        logits: of the model that is trained.
        teacher_logits: of the unpruned model; no gradient flows into them.
        temperature: divisor of both.

    Examples:
        >>> import torch
        >>> divergence(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])
    """
    taught = F.log_softmax(teacher_logits.detach().float() / temperature, -1)
    own = F.log_softmax(logits.float() / temperature, -1)
    return temperature**2 * F.kl_div(own, taught, reduction="none", log_target=True).sum(-1)
