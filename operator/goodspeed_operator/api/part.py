"""The base of every part of the resource, and the rules that a part keeps.

A rule is said once, as a CEL expression for the API server and as a predicate
for Python, with one message for both: a spec that the local runner refuses is
refused at admission in the same words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that always holds.

    Attributes:
        cel: the expression, with ``self`` the value it is on; empty where the schema says it already.
        message: names the field and the fix.
        holds: the same test in Python.
        field: the field at fault, relative to the value; empty for the value itself.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str = ""

    def validation(self) -> dict[str, str]:
        """The rule as an entry of ``x-kubernetes-validations``."""
        entry = {"rule": self.cel, "message": self.message}
        return {**entry, "fieldPath": f".{self.field}"} if self.field else entry


def _keep(rules: tuple[Rule, ...], value: Any) -> None:
    found = [[rule.field, rule.message] for rule in rules if not rule.holds(value)]
    if found:
        text = "; ".join(message for _, message in found)
        raise PydanticCustomError("rule", "{text}", {"text": text, "broken": found})


def _publish(rules: tuple[Rule, ...], schema: JsonSchemaValue) -> JsonSchemaValue:
    entries = [rule.validation() for rule in rules if rule.cel]
    if not entries:
        return schema
    return {**schema, "x-kubernetes-validations": [*schema.get("x-kubernetes-validations", []), *entries]}


class Checked:
    """Puts rules on a scalar or a list: ``Annotated[str, Checked(rule, ...)]``."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any) -> Any:
            _keep(self.rules, value)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return _publish(self.rules, handler(schema))


class Part(BaseModel):
    """A part of the resource: strict, closed, immutable, camelCase outside."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        _keep(self.rules, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return _publish(cls.rules, handler.resolve_ref_schema(handler(schema)))

    def plain(self) -> dict[str, Any]:
        """The part as it stands in a manifest: camelCase, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
