"""The resource's reference as Markdown, made from the types.

``python -m goodspeed_operator.api.reference`` prints it; with paths, it writes there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from goodspeed_operator.api.cluster import GoodSpeedCluster, Spec
from goodspeed_operator.api.crd import write
from goodspeed_operator.api.pods import Pods
from goodspeed_operator.api.scalars import FORMS
from goodspeed_operator.api.status import Status
from goodspeed_operator.api.structural import Schema, structural

HEAD = """\
# Reference: GoodSpeedCluster

<!-- Made from the types by `make reference`; edit those, not this. -->

`goodspeed.io/v1alpha1`, short name `gsc`. The cluster knows it too: `kubectl explain gsc.spec.verifier`.
A field without a default is left out or must be there, as its row says. Quantities, tolerations, affinity and
the like are written as in a pod. What a rule turns away is refused by `kubectl apply`, in the rule's words.
What only the operator can reckon out, such as `1500M` against `2Gi`, shows in the condition `Ready` with the
reason `SpecInvalid`.
"""

SHARED = "Fields of `spec.verifier` and of every entry of `spec.drafters[]`"
_IN_A_POD = {"affinity", "tolerations", "topologySpreadConstraints", "podSelector", "namespaceSelector"}


def render() -> str:
    """The whole page."""
    spec, shared = structural(Spec), structural(Pods)
    metadata = [{"message": rule.message} for rule in GoodSpeedCluster.rules]
    parts = [HEAD, *_section("spec", _scalars(spec), rules=[*metadata, *_rules(spec)])]
    for name, part in spec["properties"].items():
        inner, path = (part["items"], f"spec.{name}[]") if "items" in part else (part, f"spec.{name}")
        if "properties" not in inner:
            continue
        own = _without(inner, shared) if name in {"verifier", "drafters"} else inner
        rules = [*(_rules(part) if "items" in part else ()), *_all_rules(own)]
        parts += _section(path, own, rules=rules, more=own is not inner)
        if name == "drafters":
            parts += _section(SHARED, shared, rules=_all_rules(shared))
    status = structural(Status)
    parts += _section("status", _scalars(status))
    for name, part in status["properties"].items():
        inner, path = (part["items"], f"status.{name}[]") if "items" in part else (part, f"status.{name}")
        if "properties" in inner:
            parts += _section(path, inner)
    return "\n".join(parts)


def _section(
    title: str, schema: Schema, *, rules: list[Mapping[str, str]] | None = None, more: bool = False
) -> list[str]:
    """One heading with its table; nothing where there are no fields."""
    table = [
        f"| `{name}` | {kind} | {default} | {text} |"
        for name, kind, default, text in _rows(schema, "", schema.get("required", ()))
    ]
    if not table:
        return []
    words = [schema["description"], ""] if schema.get("description") and title != SHARED else []
    pointer = ["And the fields that verifiers and drafters share, below.", ""] if more else []
    refused = [f"- {rule['message']}" for rule in rules or ()]
    turned_away = ["", "Rules, in the words of a refusal:", "", *refused]
    return [
        f"## {title if title == SHARED else f'`{title}`'}",
        "",
        *words,
        *pointer,
        "| field | type | default | what it is |",
        "|---|---|---|---|",
        *table,
        *(turned_away if refused else []),
        "",
    ]


def _rows(schema: Schema, path: str, required: Any) -> Iterator[tuple[str, str, str, str]]:
    """Every field below a section that is no section itself."""
    for name, part in schema["properties"].items():
        full = f"{path}{name}"
        inner = part.get("items", part)
        if "properties" in inner and name not in _IN_A_POD:
            mark = "[]" if "items" in part else ""
            needed = inner.get("required", ())
            if full in required or not (mark or needed):
                yield from _rows(inner, f"{full}{mark}.", needed)
                continue
            yield full, _kind(name, part), _default(part, full in required), _text(part)
            yield from _rows(inner, f"{full}{mark}.", [f"{full}{mark}.{each}" for each in needed])
        else:
            yield full, _kind(name, part), _default(part, name in required or full in required), _text(part)


def _kind(name: str, schema: Schema) -> str:
    """The type and its bounds, for people."""
    if name in _IN_A_POD:
        return (
            "as in a pod" if "items" not in schema else f"list of at most {schema['maxItems']}, as in a pod"
        )
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "pod template"
    if "enum" in schema:
        return ", ".join(f"`{value or json.dumps(value)}`" for value in schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return f"{FORMS[schema['pattern']]}" if "pattern" in schema else "number or string"
    match schema["type"]:
        case "array":
            inner = schema["items"]
            of = "" if "properties" in inner else f" of: {_kind('', inner)}"
            return f"list, {schema.get('minItems', 0)} to {schema['maxItems']}{of}"
        case "integer" | "number":
            return f"{schema['type']}, {_number(schema['minimum'])} to {_number(schema['maximum'])}"
        case "object":
            return f"map of at most {schema['maxProperties']}" if "maxProperties" in schema else "section"
        case "string" if "pattern" in schema and schema["pattern"] in FORMS:
            return FORMS[schema["pattern"]]
        case "string" if "maxLength" in schema:
            return f"string, at most {schema['maxLength']}"
    return str(schema["type"])


def _number(value: float) -> str:
    """Bounds that nobody is meant to reach as powers, so that they do not look like limits."""
    return f"{value:g}" if abs(value) >= 1e9 or value != int(value) else str(int(value))


def _default(schema: Schema, required: bool) -> str:
    if required:
        return "must be there"
    return f"`{json.dumps(schema['default'])}`" if schema.get("default", {}) != {} else ""


def _text(schema: Schema) -> str:
    return str(schema.get("description", "")).replace("|", "\\|")


def _rules(schema: Schema) -> list[Mapping[str, str]]:
    return list(schema.get("x-kubernetes-validations", ()))


def _all_rules(schema: Schema) -> list[Mapping[str, str]]:
    """The rules of a section and of all below it, each message once."""
    found = _rules(schema)
    inner = [part for name, part in schema.get("properties", {}).items() if name not in _IN_A_POD]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for part in inner:
        found += _all_rules(part)
    return list({rule["message"]: rule for rule in found}.values())


def _scalars(schema: Schema) -> Schema:
    """A section without those below it."""
    kept = {
        name: part
        for name, part in schema["properties"].items()
        if "properties" not in part.get("items", part)
    }
    return {**schema, "properties": kept}


def _without(schema: Schema, other: Schema) -> Schema:
    kept = {name: part for name, part in schema["properties"].items() if name not in other["properties"]}
    return {**schema, "properties": kept}


if __name__ == "__main__":
    write(render(), sys.argv[1:])
