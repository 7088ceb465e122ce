"""The small values of the resource: names, durations, quantities, and how each must look."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from goodspeed_operator.api.part import Checked, Rule

LABEL_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
URL_PATTERN = r"^https?://[^\s/]+(/\S*)?$"
LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
QUALIFIED_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
PATH_PATTERN = r"^/.*$"
PERCENT_PATTERN = r"^([0-9]+|[0-9]{1,2}%|100%)$"
IMAGE_PATTERN = r"^[^\s]+$"

FORMS = {
    LABEL_PATTERN: "lower-case letters, digits and '-', from a letter to a letter or digit",
    NAME_PATTERN: "the name of an object: lower-case letters, digits, '-' and '.'",
    KEY_PATTERN: "letters, digits, '-', '_' and '.'",
    DURATION_PATTERN: 'a duration such as "30s", "200ms" or "1m30s"',
    QUANTITY_PATTERN: 'a quantity such as 1, "500m" or "16Gi"',
    URL_PATTERN: 'a URL such as "http://prometheus.monitoring:9090"',
    LABEL_VALUE_PATTERN: "a label's value: letters, digits, '-', '_' and '.'",
    QUALIFIED_PATTERN: 'a label\'s key such as "topology.kubernetes.io/zone"',
    PATH_PATTERN: 'an absolute path such as "/var/cache/goodspeed"',
    PERCENT_PATTERN: 'a number or a percentage such as 1 or "25%"',
    IMAGE_PATTERN: 'an image such as "registry.example/goodspeed/runtime:0.1.0"',
}
"""What a person reads where a pattern was not met."""


def _digits(value: Any) -> Any:
    """Quantities and percentages may be written as bare numbers; inside they are text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _int_or_text(pattern: str) -> Any:
    return WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": pattern, "maxLength": 32})


DNSLabel = Annotated[str, StringConstraints(pattern=LABEL_PATTERN, min_length=1, max_length=63)]
ObjectName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=253)]
DataKey = Annotated[str, StringConstraints(pattern=KEY_PATTERN, min_length=1, max_length=253)]
LabelKey = Annotated[str, StringConstraints(pattern=QUALIFIED_PATTERN, min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
AbsolutePath = Annotated[str, StringConstraints(pattern=PATH_PATTERN, min_length=1, max_length=1024)]
URL = Annotated[str, StringConstraints(pattern=URL_PATTERN, min_length=8, max_length=1024)]
Image = Annotated[str, StringConstraints(pattern=IMAGE_PATTERN, min_length=1, max_length=512)]
DurationText = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, min_length=2, max_length=24)]
Quantity = Annotated[
    str,
    BeforeValidator(_digits),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    _int_or_text(QUANTITY_PATTERN),
]
CountOrPercent = Annotated[
    str,
    BeforeValidator(_digits),
    StringConstraints(pattern=PERCENT_PATTERN, max_length=32),
    _int_or_text(PERCENT_PATTERN),
]

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MULTIPLES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


def seconds(duration: str) -> float:
    """The seconds in a duration such as ``1m30s``."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", duration))


def amount(quantity: str) -> Decimal:
    """The plain number in a Kubernetes quantity such as ``500m`` or ``16Gi``."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return Decimal(number) * _MULTIPLES[unit]


def between(field: str, shortest: str, longest: str) -> Checked:
    """Holds a duration within bounds, both included."""
    return Checked(
        Rule(
            cel=f"duration(self) >= duration('{shortest}') && duration(self) <= duration('{longest}')",
            message=f"{field} must be between {shortest} and {longest}",
            holds=lambda value: seconds(shortest) <= seconds(value) <= seconds(longest),
        )
    )


def least(field: str, bound: float) -> Checked:
    """Holds a number at a fraction or more.

    The API server cuts a minimum's fraction off before it compares an integer
    with it, so that `minimum: 0.001` alone lets 0 pass.
    """
    return Checked(
        Rule(
            cel=f"self >= {bound}",
            message=f"{field} must be at least {bound}",
            holds=lambda value: value >= bound,
        )
    )
