"""The walk over an exported graph, in order of execution, which applies the rule of each op."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from mipp.graph.exported import Exported
from mipp.graph.findings import Flow
from mipp.graph.fixed_cost import count_fixed, list_uncounted
from mipp.graph.labels import DependsOnValues, Value
from mipp.graph.rules import Call, Made, Rule, find_rule, schema
from mipp.graph.size_axes import tie_in_heads
from mipp.records import AxisKey


def propagate(
    exported: Exported,
    evenly: frozenset[AxisKey] = frozenset(),
    *,
    head_dims: bool = False,
    residual: bool = False,
) -> Flow:
    """All ties, producers, layers and costs of an exported model.

    Args:
        exported: What `mipp.graph.exported.export` gives.
        evenly: Grouped convolutions whose groups cannot be units, see
            `mipp.graph.rules.convolutions`.
        head_dims: The units of attention are the features inside heads.
        residual: What norms go across may be removed.
    """
    idle = _drop_idle(exported.program)
    flow = Flow(
        exported.batch, calls=exported.calls, evenly=evenly, head_dims=head_dims,
        residual=residual, idle=idle,
    )  # fmt: skip
    program = exported.program
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    values: list[Any] = []
    for node in program.graph.find_nodes(op="placeholder"):
        spec, meta = inputs[node.name], node.meta.get("val")
        if not isinstance(meta, torch.Tensor):
            values.append(meta)
            continue
        shape = tuple(int(size) for size in meta.shape)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
            name = exported.first_names.get(spec.target, spec.target)
            values.append(flow.tensor(name, shape, spec.kind is InputKind.PARAMETER))
        else:
            batched = spec.kind is InputKind.USER_INPUT and shape[:1] == (exported.batch,)
            values.append(Value(shape, (None,) * len(shape), batched=batched))
    outputs = run(flow, program.graph_module, values)
    specs = program.graph_signature.output_specs
    for spec, value in zip(specs, outputs, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT and isinstance(value, Value):
            for labels in value.labels:
                flow.ties.fix(labels, "it is part of the model's output")
    tie_in_heads(flow)
    return flow


def _drop_idle(program: ExportedProgram) -> frozenset[Node]:
    """Drops what is computed and thrown away, such as the weights of attention.

    It restricts nothing, unless a layer of its own is in it: that runs in the small model, too, and
    has to fit. Those are what is returned.
    """
    graph = program.graph_module.graph
    read = {node for node in graph.nodes if node.op in ("output", "placeholder")}
    read |= {node for node in graph.nodes if node.is_impure()}
    _add_inputs(graph, read)
    own = program.graph_signature.inputs_to_parameters
    weights = {node for node in graph.find_nodes(op="placeholder") if node.name in own}
    fitting = set[Node]()
    for node in graph.nodes:
        if node not in read and (fitting | weights) & set(node.all_input_nodes):
            fitting.add(node)
    _add_inputs(graph, fitting)
    for node in reversed(graph.nodes):
        if node not in read | fitting:
            graph.erase_node(node)
    return frozenset(fitting - read)


def _add_inputs(graph: Graph, nodes: set[Node]) -> None:
    """Adds all that ``nodes`` are computed from."""
    for node in reversed(graph.nodes):
        if node in nodes:
            nodes.update(node.all_input_nodes)


def run(flow: Flow, module: GraphModule, inputs: Sequence[Any]) -> Sequence[Any]:
    """Values of a graph's outputs; ``inputs`` are those of its placeholders."""
    values: dict[Node, Any] = {}
    given = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = _attribute(module, str(node.target))
        elif node.op == "output":
            return list(map_arg(node.args[0], lambda used: values[used]))
        else:
            args = map_arg(node.args, lambda used: values[used])
            kwargs = map_arg(node.kwargs, lambda used: values[used])
            values[node] = _visit(flow, node, args, kwargs)
    return []


def _attribute(module: GraphModule, target: str) -> object:
    attribute: Any = module
    for part in target.split("."):
        attribute = getattr(attribute, part)
    if isinstance(attribute, torch.Tensor):
        return Value(tuple(attribute.shape), (None,) * attribute.dim())
    return attribute


def _visit(flow: Flow, node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> object:
    if node.target is operator.getitem:
        return None if args[0] is None else args[0][args[1]]
    if isinstance(node.target, OpOverload):
        call = Call(flow, node, _by_name(node.target, args, kwargs))
        rule = find_rule(node.target)
        if rule is None:
            call.fix_all(f"mipp has no rule for {node.target}")
            call.refuse_weights(f"mipp has no rule for {node.target}, which reads a weight")
            count_fixed(call)
        made = call.unlabelled() if rule is None or _is_number(call) else _ruled(rule, call)
        _count_reads(flow, call, made)
        return made if rule is None or _is_number(call) else _outputs(node, made)
    bodies = [arg for arg in args if isinstance(arg, GraphModule)]
    if len(bodies) == 1 and "wrap_with" in str(node.target):  # no_grad, autocast
        return run(flow, bodies[0], args[list(args).index(bodies[0]) + 1 :])
    return _unknown(flow, node, args, kwargs)


def _ruled(rule: Rule, call: Call) -> Made:
    """What a rule says; nothing can be removed where it needs a number that values decide."""
    try:
        return rule(call)
    except DependsOnValues:
        reason = "a size or a place in it depends on values"
        call.fix_all(reason)
        call.refuse_weights(reason)
        return call.unlabelled()


def _count_reads(flow: Flow, call: Call, made: Made) -> None:
    """Counts the parameters that the op computes with; one that only moves them hands them on."""
    if not _is_source(made):
        flow.reads.update({value.source.tensor for value in call.inputs if value.source})


def _is_source(made: Made) -> bool:
    if isinstance(made, Value):
        return made.source is not None
    return not isinstance(made, int | None) and any(map(_is_source, made))


def _is_number(call: Call) -> bool:
    """Whether the op works on a tensor without dimensions: rules need not think of those."""
    return call.inputs[:1] != [] and call.first.shape == () and len(call.inputs) == 1


def _by_name(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    arguments = schema(op).arguments
    named = {item.name: item.default_value for item in arguments if item.has_default_value()}
    named.update({item.name: arg for item, arg in zip(arguments, args, strict=False)})
    return {**named, **kwargs}


def _outputs(node: Node, made: Made) -> Made:
    """What later nodes see: a list where the op has several outputs."""
    if isinstance(made, Value | int | None):
        return made
    return made if isinstance(node.meta.get("val"), tuple | list) else made[0]


def _unknown(flow: Flow, node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Made:
    """A node that is no op: a Python function of sizes, or control flow."""
    call = Call(flow, node, {str(i): arg for i, arg in enumerate([*args, *kwargs.values()])})
    call.op = str(getattr(node.target, "__name__", node.target))
    call.fix_all(f"mipp has no rule for {call.op}")
    list_uncounted(call)
    return call.unlabelled()
