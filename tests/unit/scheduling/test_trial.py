"""Trials of plain decoding: the better way is found by what accounts get, cheaply and for good."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.trial import DRAFTED, PLAIN, PlainTrial, TrialRound


@dataclass
class Fleet:
    """Rounds of accounts whose rates are stated: tokens a second for each sequence, by way and account.

    A draft takes `cycle` rounds; those under way when plain decoding begins are answered before it is alone
    at work, and meanwhile everyone gets as little as one `transition`, so that a trial that counted those
    rounds would come to another answer. Without `grants` there is no budget; an allocator that does not
    `believe` in drafts grants something only where the trial insists.
    """

    drafted: list[float]
    plain: list[float]
    sequences: list[int] | None = None
    weights: list[float] | None = None
    alpha: float = 1.0
    seconds: float = 0.03
    noise: float = 0.0
    cycle: int = 2
    transition: float = 0.5
    grants: bool = True
    believes: bool = True
    seed: int = 0
    elapsed: float = 0.0
    got: list[list[float]] = field(default_factory=list)
    ways: list[int] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.trial = PlainTrial(self.alpha)
        self.generator = np.random.default_rng(self.seed)
        self.left, self.since = 0, self.cycle
        self.sequences = self.sequences or [1] * len(self.plain)
        self.weights = self.weights or [1.0] * len(self.plain)

    def play(self, rounds):
        rows = np.arange(len(self.plain))
        for _ in range(rounds):
            drafts = self.grants and (self.believes or self.trial.insists)
            way = PLAIN if self.trial.plain or not drafts else DRAFTED
            if way == DRAFTED:
                self.left, self.since = self.cycle, self.since + 1
            else:
                self.left, self.since = max(self.left - 1, 0), 0
            pure = not self.left if way == PLAIN else self.since > self.cycle
            rate = np.array(self.plain if way == PLAIN else self.drafted)
            rate = rate if pure else self.transition * np.minimum(self.plain, self.drafted)
            seconds = self.seconds * float(np.exp(self.noise * self.generator.standard_normal()))
            drafts = sum(self.sequences)
            self.trial.observe(
                TrialRound(
                    accounts=rows,
                    committed=rate * self.sequences * self.seconds,
                    present=np.repeat(rows, self.sequences),
                    seconds=seconds,
                    answered=drafts if way == DRAFTED and pure else 0,
                    out=drafts if self.left else 0,
                ),
                np.array(self.weights),
            )
            self.elapsed += seconds
            self.ways.append(way)
            self.spans.append(seconds)

    def share(self, way, last):
        """Of the last rounds' seconds."""
        spans, ways = np.array(self.spans[-last:]), np.array(self.ways[-last:])
        return float(spans[ways == way].sum() / spans.sum())


TOKENS = st.floats(0.5, 8.0)


@settings(max_examples=30, deadline=None)
@given(TOKENS, TOKENS, st.integers(1, 6), st.sampled_from([0.001, 0.03, 0.3]))
def test_the_quicker_way_is_found_and_kept(drafted, plain, cycle, seconds):
    """Whatever a round lasts: these are tokens a round."""
    fleet = Fleet([drafted / seconds] * 2, [plain / seconds] * 2, cycle=cycle, seconds=seconds)
    fleet.play(6000)
    if abs(np.log(plain / drafted)) > 0.05:
        assert fleet.trial.usual == (PLAIN if plain > drafted else DRAFTED)
        assert fleet.trial.ratio == pytest.approx(plain / drafted, rel=0.05)
    elif abs(np.log(plain / drafted)) < 0.01:
        assert fleet.trial.usual == DRAFTED


@settings(max_examples=10, deadline=None)
@given(TOKENS, TOKENS, st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_once_the_answer_has_stayed_the_same_trials_take_less_than_two_percent(drafted, plain, noise, seed):
    fleet = Fleet([30 * drafted], [30 * plain], noise=noise, seed=seed)
    fleet.play(20_000)
    before = fleet.trial.tried_seconds, fleet.elapsed
    fleet.play(20_000)
    tried, elapsed = fleet.trial.tried_seconds - before[0], fleet.elapsed - before[1]
    # A trial that had begun may end here, whose gap comes after.
    assert tried < 0.02 * elapsed + 5


@settings(max_examples=10, deadline=None)
@given(st.floats(0.7, 1.5), st.floats(0.05, 0.5), st.integers(0, 2**32 - 1))
def test_in_noise_the_way_hardly_ever_changes_and_costs_little_where_it_is_the_wrong_one(ratio, noise, seed):
    fleet = Fleet([50.0], [50.0 * ratio], noise=noise, seed=seed)
    usual = []
    for _ in range(400):
        fleet.play(100)
        usual.append(fleet.trial.usual)
    assert np.count_nonzero(np.diff(usual)) <= 2
    best = PLAIN if ratio > 1 else DRAFTED
    lost = abs(np.log(ratio)) * np.mean(np.array(usual[200:]) != best)
    assert lost < 0.1


def test_drafting_that_pays_twice_loses_two_percent_in_the_first_minutes():
    fleet = Fleet([60.0], [30.0], noise=0.1)
    fleet.play(10_000)
    assert fleet.share(PLAIN, 10_000) * 0.5 < 0.02
    assert fleet.trial.usual == DRAFTED


def test_where_plain_decoding_is_quicker_it_is_used_within_seconds():
    fleet = Fleet([24.0] * 4, [30.0] * 4, noise=0.05)
    fleet.play(300)
    assert fleet.trial.usual == PLAIN
    fleet.play(5000)
    assert fleet.share(PLAIN, 4000) > 0.97


def test_the_answer_follows_a_change_and_comes_to_rest_again():
    fleet = Fleet([24.0] * 2, [30.0] * 2, noise=0.05)
    fleet.play(2000)
    assert fleet.trial.usual == PLAIN
    fleet.drafted = [70.0] * 2
    fleet.play(8000)
    assert fleet.trial.usual == DRAFTED
    fleet.play(4000)
    assert fleet.share(DRAFTED, 4000) > 0.97


def test_loads_have_ways_of_their_own_and_a_sequence_that_goes_changes_none():
    fleet = Fleet([60.0], [30.0], sequences=[1])
    fleet.play(500)
    assert fleet.trial.usual == DRAFTED
    fleet.sequences, fleet.drafted = [16], [20.0]
    fleet.play(500)
    assert fleet.trial.usual == PLAIN
    tried = fleet.trial.tried_seconds
    for sequences in (15, 16, 12, 16, 20):
        fleet.sequences = [sequences]
        fleet.play(5)
        assert fleet.trial.usual == PLAIN
    assert fleet.trial.tried_seconds == tried
    fleet.sequences, fleet.drafted = [1], [60.0]
    fleet.play(1)
    assert fleet.trial.usual == DRAFTED


def test_the_objective_is_every_accounts_and_not_the_sum_of_tokens():
    """Drafts bring one account 3 times as much and cost three others half of theirs."""
    tokens = Fleet([90.0, 15.0, 15.0, 15.0], [30.0] * 4, alpha=0.0)
    fair = Fleet([90.0, 15.0, 15.0, 15.0], [30.0] * 4)
    for fleet in (tokens, fair):
        fleet.play(500)
    assert tokens.trial.usual == DRAFTED
    assert fair.trial.usual == PLAIN
    assert fair.trial.ratio == pytest.approx((8 / 3) ** 0.25, rel=0.01)
    weighed = Fleet([90.0, 15.0, 15.0, 15.0], [30.0] * 4, weights=[6.0, 1.0, 1.0, 1.0])
    weighed.play(500)
    assert weighed.trial.usual == DRAFTED


def test_an_allocator_that_wrongly_grants_nothing_is_overruled_for_good():
    fleet = Fleet([60.0] * 2, [30.0] * 2, believes=False, noise=0.05)
    fleet.play(1000)
    assert fleet.trial.usual == DRAFTED
    assert fleet.trial.insists
    fleet.play(6000)
    assert fleet.share(DRAFTED, 6000) > 0.97


def test_an_allocator_that_rightly_grants_nothing_is_hardly_ever_overruled():
    fleet = Fleet([24.0] * 2, [30.0] * 2, believes=False, noise=0.05)
    fleet.play(4000)
    assert fleet.trial.usual == PLAIN
    assert fleet.share(DRAFTED, 4000) < 0.04
    fleet.play(8000)
    assert fleet.share(DRAFTED, 8000) < 0.02


def test_without_a_budget_next_to_nothing_is_tried():
    fleet = Fleet([30.0], [30.0], grants=False)
    fleet.play(10_000)
    assert fleet.ways.count(PLAIN) == 10_000
    assert fleet.trial.tried_seconds < 0.03 * fleet.elapsed


def test_where_plain_is_usual_and_nobody_would_be_granted_anything_trials_are_short():
    fleet = Fleet([24.0], [30.0])
    fleet.play(400)
    assert fleet.trial.usual == PLAIN
    fleet.grants, tried = False, fleet.trial.tried_seconds
    fleet.play(10_000)
    assert fleet.trial.usual == PLAIN
    assert fleet.trial.tried_seconds - tried < 10 * 16 * fleet.seconds


def test_a_drafter_that_comes_or_goes_brings_the_next_trial_nearer():
    waiting, fresh = (Fleet([60.0], [30.0], seed=1) for _ in range(2))
    for fleet in (waiting, fresh):
        fleet.play(6000)
        fleet.trial.tried_seconds = 0.0
    assert not waiting.trial.plain
    fresh.trial.changed()
    for fleet in (waiting, fresh):
        fleet.play(700)
    assert fresh.trial.tried_seconds > waiting.trial.tried_seconds == 0


def test_without_anybody_left_it_starts_anew():
    fleet = Fleet([24.0], [30.0])
    fleet.play(1000)
    assert fleet.trial.usual == PLAIN
    fleet.trial.forget()
    assert fleet.trial.usual == DRAFTED
    assert fleet.trial.ratio == 1


def test_rounds_without_a_sequence_or_without_time_say_nothing():
    trial = PlainTrial(1.0)
    nobody, nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for _ in range(1000):
        trial.observe(TrialRound(nobody, nothing, nobody, 1.0, 0, 0), np.ones(1))
        trial.observe(TrialRound(nobody, nothing, np.zeros(1, np.int64), 0.0, 0, 1), np.ones(1))
    assert not trial.plain


def test_a_drafter_that_never_answers_holds_a_trial_up_for_seconds_only():
    fleet = Fleet([30.0], [30.0], cycle=10**9, transition=1.0)
    fleet.play(3000)
    assert fleet.trial.tried_seconds > 0
    # Ended, and not for ever trying.
    assert not fleet.trial.plain or fleet.trial.tried_seconds < 40
