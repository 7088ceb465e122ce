"""From YAML to a GoodSpeedCluster, or to one message that names every bad field and its fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from goodspeed_operator.api.cluster import API_VERSION, KIND, GoodSpeedCluster
from goodspeed_operator.api.scalars import FORMS
from goodspeed_operator.api.secrets import SecretError, Secrets, is_secret, read_secrets


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad field: where it is and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ClusterError(ValueError):
    """A text or an object is no valid GoodSpeedCluster.

    Attributes:
        problems: every bad field, in the order of the types.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 field" if len(problems) == 1 else f"{len(problems)} fields"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"not a valid {KIND}, {count} to fix:{lines}")


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: the later would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the field {key.value!r} stands here twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_cluster(yaml_text: str) -> GoodSpeedCluster:
    """Reads one GoodSpeedCluster from YAML (or JSON, which is YAML); Secrets may stand beside it.

    Raises:
        ClusterError: the text is no YAML, holds another number or kind of objects, or has bad fields.
    """
    return load_with_secrets(yaml_text)[0]


def load_with_secrets(yaml_text: str) -> tuple[GoodSpeedCluster, Secrets]:
    """`load_cluster`, and the data of the Secrets that stand beside it.

    Raises:
        ClusterError: as for `load_cluster`, or a Secret is none.
    """
    try:
        documents = [found for found in yaml.load_all(yaml_text, _UniqueKeys) if found is not None]
    except yaml.YAMLError as error:
        raise ClusterError([Problem("", f"not YAML: {' '.join(str(error).split())}")]) from error
    clusters = [found for found in documents if not is_secret(found)]
    if len(clusters) != 1:
        raise ClusterError([Problem("", f"holds {len(clusters)} objects; give exactly one {KIND}")])
    try:
        secrets = read_secrets(found for found in documents if is_secret(found))
    except SecretError as error:
        raise ClusterError([Problem("", str(error))]) from error
    return parse_cluster(clusters[0]), secrets


def parse_cluster(resource: Any) -> GoodSpeedCluster:
    """Types one GoodSpeedCluster as the API server or a YAML reader gives it.

    Raises:
        ClusterError: naming every bad field.
    """
    if not isinstance(resource, Mapping):
        raise ClusterError([Problem("", f"is no object; start with apiVersion: {API_VERSION}, kind: {KIND}")])
    try:
        return GoodSpeedCluster.model_validate(_plain(resource))
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ClusterError([problem for found in details for problem in _problems(found)]) from error


def _plain(value: Any) -> Any:
    """Plain dicts and lists, with an empty section read as one that is not there.

    In a podTemplate null means something: it takes away what would be there.
    """
    if isinstance(value, Mapping):
        return {
            key: item if key == "podTemplate" else _plain(item)
            for key, item in value.items()
            if item is not None
        }
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _problems(error: ErrorDetails) -> list[Problem]:
    location, context = error["loc"], error.get("ctx", {})
    if error["type"] == "rule":
        return [
            Problem(_path((*location, *field.split(".")) if field else location), message)
            for field, message in context["broken"]
        ]
    location = tuple(step for step in location if step != "[key]")
    return [Problem(_path(location), _fix(error, location, context))]


def _fix(error: ErrorDetails, location: tuple[int | str, ...], context: dict[str, Any]) -> str:
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            return _unknown(location)
        case "missing":
            return "is missing; add it"
        case "literal_error":
            words = ", in quotes, since YAML reads off as false" if given is False else ""
            return f"{given!r} is none of the choices: {context['expected']}{words}"
        case "string_pattern_mismatch":
            return f"{given!r} must be {FORMS.get(context['pattern'], 'of the form ' + context['pattern'])}"
        case "greater_than_equal":
            return f"{given!r} is too small; the least is {context['ge']}"
        case "less_than_equal":
            return f"{given!r} is too large; the most is {context['le']}"
        case "string_too_long":
            return f"has {len(str(given))} characters; the most is {context['max_length']}"
        case "string_too_short":
            return f"must have at least {context['min_length']} character(s)"
        case "too_long":
            return f"has {context['actual_length']} entries; the most is {context['max_length']}"
        case "too_short":
            return f"must have at least {context['min_length']} entry"
        case "int_type" | "int_from_float" | "float_type" | "bool_type" | "string_type":
            kind = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
            wanted = kind[error["type"].partition("_")[0]]
            return f"{given!r} must be {wanted}{_unquoted(given, error['type'])}"
        case "model_type" | "dict_type":
            return f"{given!r} must be a section with fields of its own"
        case "list_type":
            return f"{given!r} must be a list"
        case _:
            return error["msg"]


def _unquoted(given: object, kind: str) -> str:
    if isinstance(given, str) and not kind.startswith("string"):
        return ", without quotes"
    return ", in quotes" if kind.startswith("string") and isinstance(given, int | float) else ""


def _unknown(location: tuple[int | str, ...]) -> str:
    known = _fields_at(location[:-1])
    nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6) or [
        name for name in known if name.lower() == str(location[-1]).lower().replace("_", "")
    ]
    if nearest:
        return f'unknown field; did you mean "{nearest[0]}"?'
    return f"unknown field; known here: {', '.join(known)}" if known else "unknown field; remove it"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The names of the fields there are at a path."""
    model: type[BaseModel] | None = GoodSpeedCluster
    for step in location:
        if isinstance(step, int) or model is None:
            continue
        field = next((f for n, f in model.model_fields.items() if step in {n, f.alias}), None)
        model = _model_in(field.annotation) if field else None
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
