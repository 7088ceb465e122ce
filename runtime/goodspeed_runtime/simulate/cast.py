"""Who plays: a case's clients and everything that will happen to them, the same for every allocator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers
from goodspeed_runtime.scheduling.population import Changes
from goodspeed_runtime.scheduling.population import Clients as Population
from goodspeed_runtime.simulate.scenario import Case, Churn, Prompts, Range, Scenario


@dataclass(frozen=True, slots=True)
class Cast:
    """What is drawn once per case.

    Attributes:
        population: Its arrays change while it is played; `fresh` gives each run its own.
        changes: Over the whole run.
        cell_of: int64 `[n]`, each client's cell at the start.
    """

    population: Population
    changes: Changes
    cell_of: Integers

    def fresh(self) -> Population:
        """A copy of the clients as they begin."""
        them = self.population
        return Population(
            weights=them.weights,
            acceptance=them.acceptance.copy(),
            draft_seconds=them.draft_seconds,
            delay_seconds=them.delay_seconds,
            caps=them.caps,
            floors=them.floors,
            fade=them.fade,
            present=them.present.copy(),
        )


def cast(scenario: Scenario, case: Case, *, rounds: int, seed: int) -> Cast:
    """Draws the clients, when they change within `rounds`, and the cells they start in."""
    generator = np.random.default_rng([seed, 1])
    columns = {
        name: np.concatenate([_values(getattr(g, name), g.count, generator) for g in case.clients])
        for name in ("weight", "draft_seconds", "delay_seconds", "fade")
    }
    acceptance = np.concatenate(
        [
            _kinds(g.prompts, g.count, generator)
            if g.prompts
            else _values(g.acceptance or 0.0, g.count, generator)
            for g in case.clients
        ]
    )
    prompts = [g.prompts for g in case.clients for _ in range(g.count)]
    caps = np.concatenate(
        [
            np.full(g.count, case.budget_tokens if g.max_draft_tokens is None else g.max_draft_tokens)
            for g in case.clients
        ]
    )
    floors = np.concatenate([np.full(g.count, g.min_draft_tokens) for g in case.clients])
    longest = int(min(caps.max(), case.budget_tokens))
    round_seconds = float((columns["delay_seconds"] + longest * columns["draft_seconds"]).max())
    round_seconds += scenario.verification.cost().at(float(case.budget_tokens + case.size))
    horizon = min(rounds * round_seconds, scenario.seconds or np.inf)
    present = np.ones(case.size, np.bool_)
    changes = Changes()
    if scenario.churn:
        present = generator.random(case.size) < scenario.churn.mean_stay_seconds / (
            scenario.churn.mean_stay_seconds + scenario.churn.mean_away_seconds
        )
    if scenario.changing(case):
        changes = _changes(scenario.churn, prompts, acceptance, present, horizon, generator)
    return Cast(
        Population(
            weights=columns["weight"],
            acceptance=acceptance,
            draft_seconds=columns["draft_seconds"],
            delay_seconds=columns["delay_seconds"],
            caps=caps.astype(np.int64),
            floors=floors.astype(np.int64),
            fade=columns["fade"],
            present=present,
        ),
        changes,
        _attachment(scenario, case.size, generator),
    )


def _values(given: float | list[float] | Range, count: int, generator: np.random.Generator) -> Floats:
    if isinstance(given, Range):
        return given.values(count, generator)
    return np.broadcast_to(np.asarray(given, np.float64), count).copy()


def _kinds(prompts: Prompts, count: int, generator: np.random.Generator) -> Floats:
    shares = np.array([kind.share for kind in prompts.kinds])
    return generator.choice([kind.acceptance for kind in prompts.kinds], count, p=shares / shares.sum())


def _changes(
    churn: Churn | None,
    prompts: list[Prompts | None],
    first: Floats,
    present: Flags,
    horizon: float,
    generator: np.random.Generator,
) -> Changes:
    events: list[tuple[float, int, float]] = []
    for row, alpha in enumerate(first):
        here, now = bool(present[row]), float(alpha)
        moves: list[tuple[float, float | None]] = [(t, None) for t in _times(churn, here, horizon, generator)]
        for at, what in sorted(
            [*moves, *_new_prompts(prompts[row], horizon, generator)], key=lambda event: event[0]
        ):
            if what is None:
                here = not here
                events.append((at, row, now if here else np.nan))
            else:
                now = what
                if here:
                    events.append((at, row, now))
    events.sort()
    columns = np.array(events, np.float64).reshape(-1, 3)
    return Changes(columns[:, 0], columns[:, 1].astype(np.int64), columns[:, 2])


def _times(churn: Churn | None, here: bool, horizon: float, generator: np.random.Generator) -> list[float]:
    """When a client leaves and joins, by turns."""
    if churn is None:
        return []
    times: list[float] = []
    at = 0.0
    while True:
        at += generator.exponential(churn.mean_stay_seconds if here else churn.mean_away_seconds)
        if at >= horizon:
            return times
        times.append(at)
        here = not here


def _new_prompts(
    prompts: Prompts | None, horizon: float, generator: np.random.Generator
) -> list[tuple[float, float | None]]:
    """When a prompt begins, and its α."""
    if prompts is None:
        return []
    times, at = [], generator.exponential(prompts.mean_seconds)
    while at < horizon:
        times.append(at)
        at += generator.exponential(prompts.mean_seconds)
    return list(zip(times, _kinds(prompts, len(times), generator).tolist(), strict=True))


def _attachment(scenario: Scenario, size: int, generator: np.random.Generator) -> Integers:
    if scenario.cells is None:
        return np.zeros(size, np.int64)
    count = scenario.cells.count
    if scenario.cells.attachment == "blocks":
        return np.arange(size) * count // size
    # Every cell has one client for certain; the others choose with chances as different as can be.
    chances = generator.dirichlet(np.full(count, 2.0))
    rest = generator.choice(count, size - count, p=chances)
    return generator.permutation(np.concatenate([np.arange(count), rest])).astype(np.int64)
