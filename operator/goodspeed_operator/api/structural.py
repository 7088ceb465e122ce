"""From pydantic's JSON schema to the structural schema that Kubernetes takes.

Kubernetes wants every level typed, nothing referred to, and only the keywords
of OpenAPI 3.0 it knows. Whatever has no place in there is an error here, so
that a type which cannot be said in a CRD is found when the CRD is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = {
    "type",
    "format",
    "enum",
    "pattern",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
}
_TERSE = {"affinity", "tolerations", "topologySpreadConstraints", "podSelector", "namespaceSelector"}
"""Parts as in Kubernetes' own pod spec, described there: their inner descriptions would be half the CRD."""
_DROPPED = {"title", "additionalProperties", "propertyNames", "patternProperties", "$defs", "description"}
_BOUNDS = {
    "string": ("maxLength",),
    "array": ("maxItems",),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
}


class SchemaError(ValueError):
    """A type cannot be said in a structural schema; the message names its field."""


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, with descriptions, defaults, bounds, list types and rules.

    Raises:
        SchemaError: a field has no bound, or a keyword that Kubernetes does not know.
    """
    whole = model.model_json_schema(by_alias=True)
    return _convert(whole, whole.get("$defs", {}), "")


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    schema = _resolved(schema, definitions, path)
    result: Schema = {}
    if "description" in schema:
        result["description"] = " ".join(schema["description"].split())
    for key, value in schema.items():
        if key == "const":
            result["enum"] = [value]
        elif key in _KEPT or key.startswith("x-kubernetes-"):
            result[key] = value
        elif key not in _DROPPED | {"properties", "items"}:
            raise SchemaError(f"{path}: the keyword {key} has no place in a structural schema")
    if "properties" in schema:
        result["properties"] = {
            name: _convert(item, definitions, f"{path}.{name}") for name, item in schema["properties"].items()
        }
        for name in _TERSE & result["properties"].keys():
            _silence(result["properties"][name])
        if isinstance(result.get("default"), dict):
            result["default"] = _default_section(result)
    elif (values := _values(schema)) is not None:
        result["additionalProperties"] = _convert(values, definitions, f"{path}.*")
    if "items" in schema:
        result["items"] = _convert(schema["items"], definitions, f"{path}[]")
        result["x-kubernetes-list-type"] = "map" if "x-kubernetes-list-map-keys" in schema else "atomic"
    _bounded(result, path)
    return result


def _default_section(schema: Schema) -> dict[str, Any]:
    """A section's default: empty, and filled by the defaults of its fields.

    The API server tries a section's own rules on its default before it fills it,
    so with rules the fields that they look at must stand in it.
    """
    if "x-kubernetes-validations" not in schema:
        return {}
    return {name: item["default"] for name, item in schema["properties"].items() if "default" in item}


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """Without references and without the alternative null: a field that is not set is left out."""
    flat = dict(schema)
    while "$ref" in flat or "anyOf" in flat or "allOf" in flat:
        if "$ref" in flat:
            inner = definitions[flat.pop("$ref").rpartition("/")[2]]
        else:
            key = "anyOf" if "anyOf" in flat else "allOf"
            choices = [choice for choice in flat.pop(key) if choice != {"type": "null"}]
            if len(choices) != 1:
                raise SchemaError(f"{path}: {key} with {len(choices)} branches has no place here")
            inner = choices[0]
        flat = {**inner, **flat}
    if flat.get("default", 0) is None:
        del flat["default"]
    elif "default" in flat:
        flat["default"] = _without_null(flat["default"])
    if flat.get("x-kubernetes-int-or-string") and str(flat.get("default", "")).isdecimal():
        flat["default"] = int(flat["default"])
    return flat


def _without_null(value: Any) -> Any:
    """A default as the API server takes it: what is not set is not there."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _silence(schema: Schema) -> None:
    """Leaves out the descriptions below a part."""
    inner = [*schema.get("properties", {}).values()]
    inner += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    for part in inner:
        part.pop("description", None)
        _silence(part)


def _values(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of a map's values."""
    if isinstance(schema.get("additionalProperties"), Mapping):
        found: Mapping[str, Any] = schema["additionalProperties"]
        return found
    patterns = schema.get("patternProperties")
    return next(iter(patterns.values())) if patterns else None


def _bounded(schema: Schema, path: str) -> None:
    needed = _BOUNDS.get(schema.get("type", ""), ())
    if schema.get("type") == "string" and ("enum" in schema or "format" in schema):
        needed = ()
    missing = [bound for bound in needed if bound not in schema]
    if "additionalProperties" in schema and "maxProperties" not in schema:
        missing.append("maxProperties")
    if missing:
        raise SchemaError(f"{path}: needs {' and '.join(missing)}")
