"""The same size from scratch, for any plan."""

from typing import Literal

from mipp import methods, selection, surgery
from mipp.checks import checked
from mipp.errors import InputError
from mipp.planning.plan import Model, Plan
from mipp.prunable import protected
from mipp.tracing.guards import gradients_enabled


@gradients_enabled()
@checked
def scratch(
    plan: Plan[Model],
    seed: int = 0,
    *,
    widths: Literal["plan", "uniform"] = "plan",
    match: methods.scratch.Match = "params",
    initialise: methods.scratch.Initialise | None = None,
) -> Model:
    """A net of the plan's size with new weights, to be trained from the start.

    Train it by `mipp.methods.scratch.equal_epochs` or `mipp.methods.scratch.equal_compute`.

    Parameters:
        seed: of the new weights.
        widths: ``"plan"``, exactly those that the plan chose, or ``"uniform"``, the same share of
            every group, with no more ``match`` than the plan has; what was protected stays whole.
        match: ``"params"``, ``"macs"`` or ``"units"``.
        initialise: gives all weights of the net new values, where its modules cannot do it by
            ``reset_parameters`` (see `mipp.methods.scratch.fresh`).

    Raises:
        InputError: a plan without its model (for uniform widths, without batches too), or weights
            that nothing gives new values to.
    """
    if plan.model is None:
        raise InputError(
            "This plan was read without a model. Use mipp.Plan.from_json(text, model)."
        )
    if widths == "plan":
        small = methods.scratch.fresh(plan.apply(refit=False), seed, initialise)
        surgery.zero_placeholders(small, plan.record)
        return small
    traced, options = plan.traced, plan.record.options
    if traced is None:
        raise InputError(
            "Uniform widths need the traced model. Read the plan with "
            "mipp.Plan.from_json(text, model, batches)."
        )
    limits = selection.Limits(
        # as small as need be: it is the size that has to agree
        round_to=options.get("round_to", 1),
        protected=frozenset(protected(traced, options.get("protect", ()))),
    )
    keep = methods.scratch.uniform_widths(traced, plan.after, match, limits)
    kept = surgery.kept_indices(traced, keep)
    small = surgery.slice_graph(plan.model, traced, kept)
    return methods.scratch.fresh(small, seed, initialise)
