"""Scoring and removal in rounds: a masked copy, its scores, fewer units, and again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mipp import processes, surgery
from mipp.errors import CalibrationError, InputError
from mipp.methods.method import (
    NOT_MEASURED,
    Budgeted,
    Choice,
    Method,
    Question,
    Scores,
    ScoringMethod,
    Spend,
    Trained,
    Training,
    TrainingMethod,
)
from mipp.problem import Problem, whole_masks
from mipp.records import Curve, Keep, Trail
from mipp.selection.curve_points import ScoreTrails
from mipp.statistics import Batch
from mipp.tracing.guards import generators_kept, recurrent_gradients, seed_generators


def question_of(problem: Problem) -> Question:
    """The question about the caller's own model."""
    options = problem.options
    return Question(
        problem.model, problem.graph, problem.batches, options.loss, options.seed,
        memory=options.memory,
    )  # fmt: skip


def in_rounds(
    method: ScoringMethod, problem: Problem, budgets: Sequence[Budgeted]
) -> Iterator[Choice]:
    """The units that stay for each budget; masks are cumulative, and each round scores again.

    Raises:
        BudgetError: a budget that cannot be met, before anything is scored.
        InputError: labels that the method needs are missing, or as the method says.
        CalibrationError: scores that are not finite.
    """
    for budget in budgets:
        budget.check()
    question = replace(question_of(problem), keep=whole_masks(problem.graph), rounds=method.rounds)
    first: Scores | None = None
    for budget in budgets:
        keep: Keep = whole_masks(problem.graph)
        trails = ScoreTrails()
        for number in range(1, method.rounds + 1):
            shared = first if number == 1 else None
            scores = shared or ask(method, replace(question, keep=keep, round=number))
            first = scores if number == 1 else first
            problem.clock.lap("plan" if method.needs == "nothing" else "capture")
            left = budget.on_scores(scores, keep, number / method.rounds)
            problem.clock.lap("plan")
            trails.follow(scores, keep, left)
            keep = left
            if shared is None:
                problem.progress("score", number, method.rounds)
        yield _choice(problem, keep, trails.trails(problem.graph), {"loss": ""})


def trained_towards(
    method: TrainingMethod, problem: Problem, budgets: Sequence[Budgeted]
) -> Iterator[Choice]:
    """The trained model and its units for the one budget.

    Raises:
        InputError: several budgets.
        BudgetError: a budget that cannot be met, before anything is trained.
    """
    training = problem.options.training
    assert training is not None
    if len(budgets) > 1:
        raise InputError(
            f"mipp.plans was given a method that trains towards one budget: {method}. Call "
            "mipp.plan for each."
        )
    for budget in budgets:
        budget.check()
        followed = replace(
            training, progress=lambda done, steps: problem.progress("train", done, steps)
        )

        def spend(scores: Scores, keep: Keep, share: float, budget: Budgeted = budget) -> Keep:
            problem.clock.lap("train")
            return budget.on_scores(scores, keep, share)

        made = trained(method, question_of(problem), followed, spend)
        problem.clock.lap("train")
        cost = {} if made.cost is None else asdict(made.cost)
        how = {"recipe": asdict(training.recipe), "cost": cost, "notes": dict(made.notes)}
        notes = {"loss": "", "training": how}
        yield replace(_choice(problem, made.keep, (), notes), model=made.model)


def _choice(
    problem: Problem, keep: Keep, trails: tuple[Trail, ...], notes: dict[str, Any]
) -> Choice:
    by_name = {g.name: tuple(np.flatnonzero(keep[g.index]).tolist()) for g in problem.graph.groups}
    return Choice(by_name, dict.fromkeys(by_name, NOT_MEASURED), trails, notes)


def ask(method: ScoringMethod, question: Question) -> Scores:
    """The scores of one round, for a question about the caller's own model."""
    with processes.together(question.model):
        return _averaged(_own_scores(method, question), question)


def _own_scores(method: ScoringMethod, question: Question) -> Scores:
    """From the examples of this process alone."""
    check_labels(method, question)

    def masked() -> Question:
        copied = surgery.mask_model(question.model, question.graph, question.keep)
        return replace(question, model=copied, live=live_entries(question, copied))

    whole = all(mask.all() for mask in question.keep.values())
    with as_asked(method, question, masked, whole=whole) as asked:
        own = method.score(asked)
    for group in question.graph.groups:
        if group.index not in own:
            continue
        mask = question.keep.get(group.index, np.ones(group.n_units, dtype=bool))
        if not np.isfinite(own[group.index][mask]).all():
            raise CalibrationError(
                f"method={method.name!r} gave scores of group {group.name} that are not finite. "
                "Check weights and batches for infinite values, or use a model in float64."
            )
    return own


def _averaged(scores: Scores, question: Question) -> Scores:
    """The mean over all ranks, in a `mipp.processes.together` block."""
    if processes.rank_and_size()[1] == 1:
        return scores
    device = next(question.model.parameters()).device
    groups = [group for group in question.graph.groups if group.index in scores]
    processes.agree("the groups with scores", [group.name for group in groups])
    return {
        group.index: mean_over_ranks(
            f"group {group.name}", torch.tensor(scores[group.index], device=device)
        )
        .cpu()
        .numpy()
        for group in groups
    }


def mean_over_ranks(what: str, scores: Tensor) -> Tensor:
    """The mean over all ranks, in a `mipp.processes.together` block."""
    size = processes.rank_and_size()[1]
    if size == 1:
        return scores
    merged = scores.detach().to(torch.promote_types(scores.dtype, torch.float32), copy=True)
    processes.all_reduce(f"the scores of {what}", merged)
    return merged / size


def trained(
    method: TrainingMethod, question: Question, training: Training, spend: Spend
) -> Trained:
    """The result of a method that trains a copy of the model.

    Args:
        method: which one.
        question: about the caller's own model.
        training: data and recipe.
        spend: chooses units by scores, see `Spend`.

    Raises:
        InputError: the result has a model of another structure.
    """
    with undisturbed(question):
        copied = surgery.mask_model(question.model, question.graph, {})
        whole = replace(
            question, model=copied, keep=whole_masks(question.graph), rounds=method.rounds
        )
        made = method.run(whole, training, spend)
    shapes = [surgery.fingerprint(surgery.state_shapes(m)) for m in (question.model, made.model)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"method={method.name!r} gave back a model of another structure; expected the "
            "full-size model, trained, and the units to keep."
        )
    return made


def check_labels(method: Method, question: Question) -> None:
    """Raises `InputError` where a method that needs labels is given batches without."""
    if method.needs != "labels" or not isinstance(question.loss, str):
        return
    for number, batch in enumerate(question.batches):
        if batch.target is None:
            raise InputError(
                f"method={method.name!r} needs labels, and batch {number} has none. Give "
                "(input, target) pairs, or a loss= that makes do without."
            )


@contextmanager
def as_asked(
    method: Method, question: Question, masked: Callable[[], Question], *, whole: bool
) -> Iterator[Question]:
    """The question as it is put to a method, which is undisturbed inside of the block.

    Args:
        method: Gets the caller's own model where it only reads and nothing is removed, and
            otherwise a copy, which is made workable unless it only reads.
        question: About the caller's own model.
        masked: Makes the question about a copy without what is removed.
        whole: Whether nothing is removed.
    """
    with undisturbed(question, derivatives=not method.reads_only):
        if method.reads_only:
            yield question if whole else masked()
        else:
            yield workable(masked())


@contextmanager
def undisturbed(question: Question, *, derivatives: bool = True) -> Iterator[None]:
    """Generators seeded for the block and put back after it; no TF32; gradients enabled.

    Args:
        question: Its model, its seed and its round.
        derivatives: Whether second derivatives are wanted: the faster kernels of attention have
            none.
    """
    devices = {p.device for p in question.model.parameters()}
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    tf32 = cudnn.allow_tf32, matmul.allow_tf32
    with (
        generators_kept(devices),
        torch.enable_grad(),
        recurrent_gradients(question.model),
        sdpa_kernel(SDPBackend.MATH) if derivatives else nullcontext(),
    ):
        # seeds devices of the model alone: others are not put back
        for device in devices:
            seed_generators(device, question.seed, question.round)
        try:
            # ten bits of mantissa are not enough for products of second derivatives
            cudnn.allow_tf32 = matmul.allow_tf32 = False
            yield
        finally:
            cudnn.allow_tf32, matmul.allow_tf32 = tf32


def workable(question: Question) -> Question:
    """The question with its model (changed in place) and batches ready for derivatives."""
    model, batches = question.model.eval(), question.batches
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model, batches = model.float(), [_float(batch) for batch in batches]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return replace(question, model=model, batches=batches)


def live_entries(question: Question, model: nn.Module) -> dict[str, Tensor]:
    """Masks for `Question.live`: entries along no removed unit of any dimension."""
    live: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for key, axis in question.graph.axes.items():
        kept = axis.kept(question.keep)
        if key.tensor not in parameters or kept.all():
            continue
        parameter = parameters[key.tensor]
        shape = [1] * parameter.dim()
        shape[key.dim] = -1
        mask = torch.as_tensor(kept, device=parameter.device).view(shape)
        live[key.tensor] = live[key.tensor] & mask if key.tensor in live else mask
    return live


def curves_of_scores(scores: Scores, keep: Keep) -> dict[int, Curve]:
    """Scores as curves, so that every allocation can spend them. Scores are no nats.

    Removed units come first and cost nothing. Where scores are negative, all are counted from the
    lowest.
    """
    left = {g: keep.get(g, np.ones(len(s), dtype=bool)) for g, s in scores.items()}
    lowest = min((float(s[left[g]].min()) for g, s in scores.items() if left[g].any()), default=0.0)
    made = {}
    for group, values in scores.items():
        gone, stays = np.flatnonzero(~left[group]), np.flatnonzero(left[group])
        ranked = stays[np.argsort(values[stays], kind="stable")]
        steps = np.concatenate([np.zeros(1 + len(gone)), values[ranked] - min(lowest, 0.0)])
        lost = np.cumsum(steps)
        made[group] = Curve(
            order=np.concatenate([gone, ranked]).astype(np.int64),
            nats_lost=lost,
            total=float(lost[-1]),
            consumer_lost=lost[:, None],
            consumer_total=lost[-1:],
        )
    return made


def _float(batch: Batch) -> Batch:
    return batch.mapped(lambda t: t.float() if t.is_floating_point() else t)
