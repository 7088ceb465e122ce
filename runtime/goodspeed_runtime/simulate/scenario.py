"""What a scenario file may say: the types that check it. Reading and playing it are done elsewhere."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from goodspeed_runtime.scheduling.arrays import Floats
from goodspeed_runtime.scheduling.timing import VerificationCost

Probability = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(ge=0)]
Fade = Annotated[float, Field(gt=0, le=2)]
Step = Annotated[float, Field(gt=0, le=1)]


class Part(BaseModel):
    """A part of a scenario: closed, immutable, camelCase outside."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class Range(Part):
    """Values from one end to the other, one for every client of a group."""

    from_: float = Field(alias="from")
    to: float
    spacing: Literal["even", "log", "logit"] = "even"
    """Even steps of the value, of its logarithm, or of log(x/(1 - x))."""
    shuffled: bool = False
    """Deal the values out in an order drawn with the seed, so that one property says nothing of another."""

    @model_validator(mode="after")
    def _fits_its_spacing(self) -> Self:
        ends = (self.from_, self.to)
        if self.spacing == "log" and min(ends) <= 0:
            raise ValueError("spacing log needs both ends above 0")
        if self.spacing == "logit" and not 0 < min(ends) <= max(ends) < 1:
            raise ValueError("spacing logit needs both ends between 0 and 1")
        return self

    def values(self, count: int, generator: np.random.Generator) -> Floats:
        """float64 `[count]`."""
        first, last = self.from_, self.to
        values: Floats
        match self.spacing:
            case "even":
                values = np.linspace(first, last, count)
            case "log":
                values = np.geomspace(first, last, count)
            case "logit":
                logits = np.linspace(math.log(first / (1 - first)), math.log(last / (1 - last)), count)
                values = 1 / (1 + np.exp(-logits))
        return generator.permutation(values) if self.shuffled else values


class Kind(Part):
    """One kind of prompt."""

    acceptance: Probability
    share: Annotated[float, Field(gt=0)] = 1.0
    """How often it comes, relative to the other kinds."""


class Prompts(Part):
    """Prompts of several kinds, one after the other: what acceptance changes with."""

    mean_seconds: Annotated[float, Field(gt=0)]
    """How long a prompt lasts, exponentially distributed."""
    kinds: Annotated[list[Kind], Field(min_length=1)]


class Clients(Part):
    """Clients that are alike in kind; a number is everybody's, a list has one entry a client."""

    count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    acceptance: Probability | list[Probability] | Range | None = None
    """The true chance that a drafted token is accepted, for ever; or else `prompts`."""
    prompts: Prompts | None = None
    fade: Fade | list[Fade] | Range = 1.0
    """What each position of a draft has of the acceptance of the one before; above 1 it rises."""
    weight: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]] | Range = 1.0
    """w in w·U(x)."""
    draft_seconds: Seconds | list[Seconds] | Range = 0.0
    """Of the drafter's, for each token."""
    delay_seconds: Seconds | list[Seconds] | Range = 0.0
    """Of the link, from a verdict until an empty draft is back."""
    max_draft_tokens: Annotated[int, Field(ge=0, le=4096)] | None = None
    """The longest draft; the budget where it is not said."""
    min_draft_tokens: Annotated[int, Field(ge=0, le=4096)] = 0
    """Tokens that each client is granted before anything is optimised."""

    @model_validator(mode="after")
    def _columns_are_sound(self) -> Self:
        if (self.acceptance is None) == (self.prompts is None):
            raise ValueError("needs either acceptance or prompts; give one of them")
        for name in ("acceptance", "fade", "weight", "draft_seconds", "delay_seconds"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.count:
                raise ValueError(
                    f"{to_camel(name)} has {len(value)} values for {self.count} clients; "
                    "give one a client, or one for all"
                )
        if isinstance(self.acceptance, Range) and not all(
            0 < end < 1 for end in (self.acceptance.from_, self.acceptance.to)
        ):
            raise ValueError("acceptance must lie between 0 and 1, both ends excluded")
        for name in ("draft_seconds", "delay_seconds"):
            value = getattr(self, name)
            if isinstance(value, Range) and min(value.from_, value.to) < 0:
                raise ValueError(f"{to_camel(name)} must not be negative")
        for name in ("weight", "fade"):
            value = getattr(self, name)
            if isinstance(value, Range) and min(value.from_, value.to) <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.max_draft_tokens is not None and self.min_draft_tokens > self.max_draft_tokens:
            raise ValueError("minDraftTokens is above maxDraftTokens; lower it")
        return self


class Churn(Part):
    """Every client comes and goes."""

    mean_stay_seconds: Annotated[float, Field(gt=0)]
    mean_away_seconds: Annotated[float, Field(gt=0)]


class Cells(Part):
    """Several verifiers, and the slow loop that moves drafters between them."""

    count: Annotated[int, Field(ge=2, le=10_000)]
    attachment: Literal["blocks", "uneven"] = "blocks"
    """Equal blocks of neighbouring clients, or cells of very different sizes."""
    interval_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Between two decisions of the slow loop."""
    hysteresis: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """How much the prices of two cells must differ, as a fraction."""
    cooldown_seconds: Seconds = 120.0
    """After a move, for its drafter and both its cells."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Of all drafters that one decision may move."""


class Published(Part):
    """What the paper's figures show: Σ log goodput per round."""

    fixed: float
    gradient: float
    random: float | None = None


class Case(Part):
    """One setting of the scenario: a verifier (or several alike) and its clients."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]
    budget_tokens: Annotated[int, Field(ge=0, le=10_000_000)]
    """C of each cell."""
    clients: Annotated[list[Clients], Field(min_length=1)]
    fixed_length: Annotated[int, Field(ge=0)] | None = None
    """The length of Fixed-S where it is not C/N."""
    verifier_decodes: bool = False
    """Who is granted nothing is decoded by the verifier at once; else an empty draft travels."""
    contention: Annotated[float, Field(ge=0)] = 0.0
    """By how many times its length a pass takes longer while everyone holds a grant; no allocator is told."""
    spread: float | None = None
    """Where this case stands on the axis of the gain plot."""
    published: Published | None = None

    @property
    def size(self) -> int:
        """How many clients there are."""
        return sum(group.count for group in self.clients)


class Acceptance(Part):
    """Which estimate of α an allocator is given."""

    estimator: Literal["published", "adaptive", "oracle"] = "published"
    """The paper's fixed step, the adaptive one, or the truth."""
    prior: Annotated[float, Field(ge=0.01, le=0.99)] = 0.6
    """α̂ of a new client."""
    step: Step = 0.1
    """η of the published estimator."""
    decay: Annotated[float, Field(gt=0.5, le=1)] | None = None
    """a of the published estimator: its t-th step with drafts is max(step, (t + 10)^-a)."""
    idle_step: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The published estimator's step towards the prior in a round without a draft."""
    hazard: Annotated[float, Field(gt=0, lt=1)] = 0.002
    """The adaptive estimator's chance that α jumps in a round."""
    by_position: bool = False
    """Learn how acceptance falls or rises along a draft, position by position, on top of α̂."""

    @model_validator(mode="after")
    def _says_what_its_estimator_uses(self) -> Self:
        uses = {
            "published": {"prior", "step", "decay", "idle_step", "by_position"},
            "adaptive": {"prior", "hazard", "by_position"},
            "oracle": set[str](),
        }
        idle = self.model_fields_set - {"estimator"} - uses[self.estimator]
        if idle:
            names = ", ".join(sorted(to_camel(name) for name in idle))
            raise ValueError(f"the {self.estimator} estimator has no use for {names}; take it away")
        return self


class Player(Part):
    """One allocator with its estimators and its way to run rounds; a row of the table."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    allocator: Literal[
        "gradient", "per-second", "sum-throughput", "fixed", "best-fixed", "random", "static-oracle"
    ]
    fairness: Annotated[float, Field(ge=0, le=100)] | None = None
    """α of the utility that it maximises; the scenario's where it is not said."""
    barrier: bool = True
    """Every round waits for every draft, as in the paper; else it takes what has arrived."""
    acceptance: Acceptance = Acceptance()
    goodput_step: Step = 0.1
    """β."""
    goodput_decay: Annotated[float, Field(gt=0.5, le=1)] | None = None
    """b: a client's t-th step is max(goodputStep, t^-b)."""
    rescan: Annotated[int, Field(ge=1)] = 32
    """Rounds from one choice of the deadline to the next, for per-second."""
    tries_plain: bool = False
    """Try plain decoding now and then, and keep to what brings more a second; needs barrier: false."""
    slow_loop: bool = False
    """Move drafters between cells by price; needs the scenario's cells."""

    @model_validator(mode="after")
    def _waits_for_whom_it_plans(self) -> Self:
        if self.allocator == "per-second" and self.barrier:
            raise ValueError(
                "per-second chooses whom a round waits for; add barrier: false, or take another allocator"
            )
        if self.tries_plain and self.barrier:
            raise ValueError("triesPlain compares seconds; add barrier: false")
        if self.allocator != "per-second" and "rescan" in self.model_fields_set:
            raise ValueError(
                f"{self.allocator} chooses no deadline and so has no use for rescan; take it away"
            )
        return self


class Verification(Part):
    """T_V(tokens) of one forward pass, through measured points."""

    tokens: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2)]
    seconds: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)]

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        self.cost()
        return self

    def cost(self) -> VerificationCost:
        """The same as the scheduler takes it."""
        return VerificationCost(tuple(self.tokens), tuple(self.seconds))


class Scenario(Part):
    """A comparison of allocators on the same clients, with the same luck."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    description: str = ""
    rounds: Annotated[int, Field(ge=10, le=10_000_000)]
    """Of every allocator in every case, unless `seconds` end it before."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Simulated time at which a run ends."""
    warm_up_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of the rounds that the figures leave out."""
    seed: Annotated[int, Field(ge=0)] = 0
    fairness: Annotated[float, Field(ge=0, le=100)] = 1.0
    """α of the utility that everyone is judged by; 1 is log, proportional fairness."""
    judged: Literal["per-round", "per-second"] = "per-round"
    """Whether utility, Jain index and minimum are of goodput per round or per second."""
    baseline: str
    """The name of the allocator that gains are relative to."""
    verification: Verification
    cases: Annotated[list[Case], Field(min_length=1)]
    allocators: Annotated[list[Player], Field(min_length=1)]
    churn: Churn | None = None
    cells: Cells | None = None

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        for what, names in (
            ("cases", [case.name for case in self.cases]),
            ("allocators", [player.name for player in self.allocators]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} has two entries named {twice!r}; give each a name of its own")
        names = [player.name for player in self.allocators]
        for case in self.cases:
            least = sum(group.count * group.min_draft_tokens for group in case.clients)
            if least > case.budget_tokens:
                raise ValueError(
                    f"minDraftTokens of {case.name} come to {least}, more than budgetTokens; lower them"
                )
        if self.cells is not None and any(group.min_draft_tokens for c in self.cases for group in c.clients):
            raise ValueError("cells do not go with minDraftTokens, which a crowded cell could not keep")
        if self.baseline not in names:
            raise ValueError(
                f"baseline {self.baseline!r} is no allocator here; it must be one of {', '.join(names)}"
            )
        if self.cells is None and any(player.slow_loop for player in self.allocators):
            raise ValueError("slowLoop needs cells; add the section cells, or take slowLoop away")
        if self.cells is not None and any(player.tries_plain for player in self.allocators):
            raise ValueError("cells do not go with triesPlain; take one away")
        if self.cells is not None and (self.churn or any(self.changing(case) for case in self.cases)):
            raise ValueError("cells go with neither churn nor prompts; take one away")
        if self.cells is not None and any(self.cells.count > case.size for case in self.cases):
            raise ValueError("cells.count is more than there are clients; lower it")
        return self

    def changing(self, case: Case) -> bool:
        """Whether the case's clients differ over time."""
        return self.churn is not None or any(group.prompts is not None for group in case.clients)
