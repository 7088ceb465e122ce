"""The CustomResourceDefinition, made from the types.

``python -m goodspeed_operator.api.crd`` prints it; with paths, it writes there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from goodspeed_operator.api.cluster import GROUP, KIND, VERSION, GoodSpeedCluster, Spec
from goodspeed_operator.api.status import Status
from goodspeed_operator.api.structural import structural

PLURAL = "goodspeedclusters"
HEADER = "# Made from the types by `make crds`; edit those, not this.\n"


def _column(name: str, path: str, description: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, **more}


_COLUMNS = [
    _column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether the fleet serves"),
    _column("Verifiers", ".status.verifiers.summary", "Verifiers that serve, of those wanted"),
    _column("Drafters", ".status.drafters.summary", "Drafters that serve, of those wanted"),
    _column("Goodput", ".status.goodput", "Committed tokens per second"),
    _column("Fairness", ".status.fairness", "Jain's index of the drafters' goodput"),
    _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why Ready is as it is", priority=1),
    _column("Age", ".metadata.creationTimestamp", "Time since it was made", "date"),
]


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition as a manifest."""
    schema = {
        "description": GoodSpeedCluster.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(Spec),
            "status": structural(Status),
        },
        # Without fieldPath: a rule on the whole object can point at no field inside metadata.
        "x-kubernetes-validations": [
            {"rule": rule.cel, "message": rule.message} for rule in GoodSpeedCluster.rules
        ],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.verifier.replicas",
                "statusReplicasPath": ".status.verifiers.replicas",
                "labelSelectorPath": ".status.verifiers.selector",
            },
        },
        "additionalPrinterColumns": _COLUMNS,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["gsc"],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }


class _NoAliases(yaml.SafeDumper):
    """Writes every part out, as the API server shows it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render() -> str:
    """The definition as YAML."""
    text = yaml.dump(
        definition(),
        Dumper=_NoAliases,
        sort_keys=False,
        width=110,
        allow_unicode=True,
        default_flow_style=None,  # leaves on one line: half the length
    )
    return HEADER + text


def write(text: str, paths: list[str]) -> None:
    """Writes to each path, or to standard output when there is none."""
    for path in paths:
        Path(path).write_text(text, encoding="utf-8")
    if not paths:
        sys.stdout.write(text)


if __name__ == "__main__":
    write(render(), sys.argv[1:])
