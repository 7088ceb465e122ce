"""From YAML to a scenario, or to one message that names every bad field, where it stands and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from goodspeed_runtime.simulate.scenario import Scenario

_PRESETS = resources.files("goodspeed_runtime.simulate") / "scenarios"


class ScenarioError(ValueError):
    """A text is no scenario; the message has a line for every bad field."""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a field that stands twice in one section: the later would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field {key.value!r} stands here twice; keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def preset_names() -> list[str]:
    """The scenarios that come with the package, in order of name."""
    return sorted(
        file.name.removesuffix(".yaml") for file in _PRESETS.iterdir() if file.name.endswith(".yaml")
    )


def preset(name: str) -> Scenario:
    """One of them; raises as `preset_text`."""
    return parse(preset_text(name), source=f"{name}.yaml")


def preset_text(name: str) -> str:
    """The YAML of one of them.

    Raises:
        ScenarioError: There is none of that name.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "or give a file of your own with --file"
        raise ScenarioError(f"no scenario is called {name!r}; there are {', '.join(names)}; {hint}")
    return (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def load(file: Path) -> Scenario:
    """A scenario of somebody's own.

    Raises:
        ScenarioError: The file cannot be read, or is no scenario.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{file}: not UTF-8 text") from error
    except OSError as error:
        raise ScenarioError(f"{file}: {(error.strerror or str(error)).lower()}") from error
    return parse(text, source=str(file))


def parse(text: str, *, source: str = "scenario") -> Scenario:
    """The scenario in a YAML text; `source` is how messages call it.

    Raises:
        ScenarioError: It names every bad field.
    """
    try:
        content = yaml.load(text, _UniqueKeys)  # noqa: S506
    except yaml.YAMLError as error:
        raise ScenarioError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ScenarioError(f"{source}: must be a section with fields; start with name: and rounds:")
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        lines = _lines(error.errors(include_url=False))
        count = "1 field" if len(lines) == 1 else f"{len(lines)} fields"
        raise ScenarioError(
            f"{source}: {count} to fix:" + "".join(f"\n  {line}" for line in lines)
        ) from error


def _lines(errors: list[ErrorDetails]) -> list[str]:
    """One line for every field; where a value may be of several forms, the form it nearly has speaks."""
    found: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_path(error["loc"]), []).append(error)
    paths = list(found)
    lines = []
    for path, same in found.items():
        deeper = any(other != path and other.startswith((f"{path}.", f"{path}[")) for other in paths)
        if deeper:
            continue
        precise = [error for error in same if not error["type"].endswith("_type")]
        if not precise and len(same) > 1:
            lines.append(
                f"{path}: {same[0]['input']!r} must be a number, a list of numbers or from, to, spacing"
            )
        else:
            lines.append(f"{path}: {_fix((precise or same)[0])}".removeprefix(": "))
    return lines


def _path(location: tuple[int | str, ...]) -> str:
    """The place as it stands in the file: pydantic's names of the forms of a union are left out."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step not in {"float", "Range"} and not step.startswith(("list[", "constrained", "function-")):
            text += f".{step}"
    return text.removeprefix(".")


def _fix(error: ErrorDetails) -> str:
    given, context = error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown(error["loc"])
        case "missing":
            return "is missing; add it"
        case "literal_error":
            return f"{given!r} is none of the choices: {context['expected']}"
        case "greater_than":
            return f"{given!r} is too small; it must be above {context['gt']:g}"
        case "greater_than_equal":
            return f"{given!r} is too small; the least is {context['ge']:g}"
        case "less_than":
            return f"{given!r} is too large; it must be below {context['lt']:g}"
        case "less_than_equal":
            return f"{given!r} is too large; the most is {context['le']:g}"
        case "string_pattern_mismatch":
            return f"{given!r} must be of lower-case letters, digits and hyphens"
        case "too_short":
            return f"must have at least {context['min_length']} entries"
        case "int_type" | "int_from_float":
            return f"{given!r} must be a whole number"
        case "float_type":
            return f"{given!r} must be a number"
        case "bool_type":
            return f"{given!r} must be true or false"
        case "string_type":
            return f"{given!r} must be text"
        case "model_type" | "model_attributes_type":
            return f"{given!r} must be a section with fields of its own"
        case "list_type":
            return f"{given!r} must be a list"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"]


def _unknown(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] | None = Scenario
    for step in location[:-1]:
        if isinstance(step, int) or model is None or step in {"float", "Range"}:
            continue
        field = next((f for n, f in model.model_fields.items() if step in {n, f.alias}), None)
        model = _model_in(field.annotation) if field else None
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    near = difflib.get_close_matches(str(location[-1]), known, n=1) or [
        name for name in known if name.lower() == str(location[-1]).lower().replace("_", "")
    ]
    if near:
        return f'unknown field; did you mean "{near[0]}"?'
    return f"unknown field; known here: {', '.join(known)}" if known else "unknown field; remove it"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
