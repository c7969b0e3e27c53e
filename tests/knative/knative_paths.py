"""Who may reach whom: the network's policies of a set of manifests, evaluated as Kubernetes does.

Known are what our policies use: pods by labels, namespaces by labels, blocks of addresses, ports by number.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from tests.knative.knative_schema import Manifest


@dataclass(frozen=True)
class Pod:
    """One of ours by its labels, or one of another namespace. Example: Pod.of("reward")."""

    labels: dict[str, str]
    namespace: dict[str, str] = field(default_factory=dict)
    """Labels of its namespace; empty = ours."""

    @classmethod
    def of(cls, kind: str) -> "Pod":
        return cls({"rekindle.dev/kind": kind, "app.kubernetes.io/name": kind})

    @classmethod
    def called(cls, name: str) -> "Pod":
        return cls({"app.kubernetes.io/name": name})

    @classmethod
    def elsewhere(cls, namespace: str) -> "Pod":
        return cls({}, {"kubernetes.io/metadata.name": namespace})


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector fits."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []) if _is_in(one)
    )


def _is_in(expression: dict[str, Any]) -> bool:
    assert expression["operator"] == "In", "our policies use no other operator"
    return True


def reaches(policies: list[Manifest], source: Pod | str, target: Pod | str, port: int) -> bool:
    """Whether a connection comes about; an address (text) is a machine outside of the cluster."""
    out = isinstance(source, str) or _passes(policies, source, target, port, "Egress", "egress", "to")
    back = isinstance(target, str) or _passes(policies, target, source, port, "Ingress", "ingress", "from")
    return out and back


def _passes(
    policies: list[Manifest], pod: Pod, peer: Pod | str, port: int, kind: str, rules: str, side: str
) -> bool:
    if pod.namespace:
        return True  # our policies say nothing of it
    ours = [
        one["spec"]
        for one in policies
        if kind in one["spec"]["policyTypes"] and selects(one["spec"]["podSelector"], pod.labels)
    ]
    return not ours or any(_permits(rule, side, peer, port) for spec in ours for rule in spec.get(rules, []))


def _permits(rule: dict[str, Any], side: str, peer: Pod | str, port: int) -> bool:
    fits = side not in rule or any(_is(each, peer) for each in rule[side])
    return fits and ("ports" not in rule or port in [each["port"] for each in rule["ports"]])


def _is(each: dict[str, Any], peer: Pod | str) -> bool:
    if "ipBlock" in each:
        return isinstance(peer, str) and _in_block(each["ipBlock"], ipaddress.ip_address(peer))
    if isinstance(peer, str):
        return False
    if "namespaceSelector" in each:
        return selects(each["namespaceSelector"], peer.namespace)
    return not peer.namespace and selects(each["podSelector"], peer.labels)


def _in_block(block: dict[str, Any], address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    networks = [ipaddress.ip_network(one) for one in (block["cidr"], *block.get("except", []))]
    inside = [one.version == address.version and address in one for one in networks]
    return inside[0] and not any(inside[1:])
