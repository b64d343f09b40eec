"""Which nodes a pod may run on: requirements put together, and held against the nodes that there are.

A node selector is a list of terms, one of which has to hold; a term is a list of requirements, all of which have to
hold. A term without any requirement holds for no node (Kubernetes' rule).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.kube.agent_config import LoadAffinity
from agent.kube.cluster import Node
from agent.kube.pods import Affinity, NodeAffinity, NodeRequirement, NodeSelector, NodeSelectorTerm, Pod
from agent.kube.volumes import LabelSelector

_OS_LABEL = "kubernetes.io/os"
_HOSTNAME_LABEL = "kubernetes.io/hostname"
_NAME_FIELD = "metadata.name"
NOT_WINDOWS = NodeRequirement(key=_OS_LABEL, operator="NotIn", values=("windows",))


def load_affinity(entries: Sequence[LoadAffinity], storage_class: str) -> LabelSelector | None:
    """The nodes that may work for a class (contract §4.1): its own entry's, else those of the one without a class."""
    for wanted in dict.fromkeys((storage_class, "")):
        for entry in entries:
            if entry.storage_class == wanted:
                return entry.node_selector
    return None


def affinity(
    allowed: LabelSelector | None, topology: NodeSelector | None = None, avoided: tuple[str, ...] = ()
) -> Affinity:
    """Linux nodes that `allowed` selects, from which a volume of this `topology` can be reached, but not `avoided`."""
    common = (*_requirements(allowed), NOT_WINDOWS)
    if avoided:
        common = (*common, NodeRequirement(key=_HOSTNAME_LABEL, operator="NotIn", values=avoided))
    terms = topology.node_selector_terms if topology is not None else ()
    selector = NodeSelector(
        node_selector_terms=tuple(
            msgspec.structs.replace(term, match_expressions=(*term.match_expressions, *common))
            for term in terms
            if term.match_expressions or term.match_fields
        )
        or (NodeSelectorTerm(match_expressions=common),)
    )
    return Affinity(node_affinity=NodeAffinity(required_during_scheduling_ignored_during_execution=selector))


def allows(pod: Pod, node: Node) -> bool:
    """Whether the pod's own node selector and affinity let it run on the node; nothing else is looked at."""
    if any(node.metadata.labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    rules = pod.spec.affinity.node_affinity if pod.spec.affinity is not None else None
    required = rules.required_during_scheduling_ignored_during_execution if rules is not None else None
    return required is None or selects(required, node)


def selects(selector: NodeSelector, node: Node) -> bool:
    """Whether one of the terms holds for the node."""
    return any(_holds(term, node) for term in selector.node_selector_terms)


def _requirements(selector: LabelSelector | None) -> Iterable[NodeRequirement]:
    if selector is None:
        return
    for key, value in selector.match_labels.items():
        yield NodeRequirement(key=key, operator="In", values=(value,))
    for expression in selector.match_expressions:
        yield msgspec.convert(expression, NodeRequirement, strict=True)


def _holds(term: NodeSelectorTerm, node: Node) -> bool:
    if not (term.match_expressions or term.match_fields):
        return False
    return all(_meets(requirement, node.metadata.labels) for requirement in term.match_expressions) and all(
        _meets(requirement, {_NAME_FIELD: node.metadata.name}) for requirement in term.match_fields
    )


def _meets(requirement: NodeRequirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compares(requirement, value)
        case _:
            return True  # an operator of a later release is the scheduler's to judge


def _compares(requirement: NodeRequirement, value: str | None) -> bool:
    try:
        there, bound = int(value or ""), int(requirement.values[0])
    except (ValueError, IndexError):
        return False
    return there > bound if requirement.operator == "Gt" else there < bound
