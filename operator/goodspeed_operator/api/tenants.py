"""The tenants: who asks, across drafters, and how much each one counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from goodspeed_operator.api.part import Checked, Part, Rule
from goodspeed_operator.api.placement import SecretKey
from goodspeed_operator.api.scalars import DNSLabel, least

MOST_TENANTS = 64


class Tenant(Part):
    """Someone whose requests count together, whichever drafters they come by."""

    name: DNSLabel
    """Its name, unique in the cluster."""
    weight: Annotated[float, Field(ge=0.001, le=1000), least("weight", 0.001)] = 1
    """Share in the utility: a tenant of weight 2 counts twice."""
    api_key_secret_ref: SecretKey | None = None
    """A Secret's entry with its API keys, one a line; without, a header names the tenant and is believed."""


def _no_twice(tenants: list[Tenant]) -> bool:
    return len({tenant.name for tenant in tenants}) == len(tenants)


def _all_or_none(tenants: list[Tenant]) -> bool:
    return len({tenant.api_key_secret_ref is None for tenant in tenants}) <= 1


def _own_entries(tenants: list[Tenant]) -> bool:
    entries = [(ref.name, ref.key) for tenant in tenants if (ref := tenant.api_key_secret_ref)]
    return len(set(entries)) == len(entries)


Tenants = Annotated[
    list[Tenant],
    Checked(
        Rule("", "names of tenants must be unique; rename one of them", _no_twice),
        Rule(
            "self.all(t, has(t.apiKeySecretRef)) || !self.exists(t, has(t.apiKeySecretRef))",
            "apiKeySecretRef must be given for all tenants or for none: a tenant without a key would be "
            "anybody's",
            _all_or_none,
        ),
        Rule(
            # Comparing all with all costs the API server too much.
            "",
            "two tenants name the same entry of a Secret, so that a key would be both's; give each its own",
            _own_entries,
        ),
    ),
    Field(max_length=MOST_TENANTS, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}),
]
