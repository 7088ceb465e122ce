"""The simulator's cell: rounds as the rules say, tokens as the clients' acceptance says."""

import numpy as np
import pytest

from goodspeed_runtime.scheduling.allocation import Allocation
from goodspeed_runtime.scheduling.baselines import FixedAllocator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import expected_goodput
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.population import Changes, Clients
from goodspeed_runtime.scheduling.rules import Rules
from goodspeed_runtime.scheduling.simulator import Cell
from goodspeed_runtime.scheduling.survival import SurvivalEstimator
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair


def clients(acceptance, **columns):
    size = len(acceptance)
    given = {
        "weights": np.ones(size),
        "draft_seconds": np.zeros(size),
        "delay_seconds": np.zeros(size),
        "caps": np.full(size, 8),
        "floors": np.zeros(size, np.int64),
        "fade": np.ones(size),
        "present": np.ones(size, np.bool_),
    }
    given |= {name: np.asarray(column) for name, column in columns.items()}
    return Clients(acceptance=np.asarray(acceptance, float), **given)


def cell(them, *, allocator=None, budget=8, changes=None, survival=None, cost=(1.0, 0.0), seed=0, **rules):
    acceptance, goodput = AcceptanceEstimator(), GoodputEstimator()
    for row in np.flatnonzero(them.present):
        acceptance.add(int(row))
        goodput.add(int(row))
    return Cell(
        clients=them,
        rows=np.arange(len(them)),
        rules=Rules(budget=budget, verification=VerificationCost.linear(*cost), utility=AlphaFair(), **rules),
        allocator=allocator or FixedAllocator(),
        acceptance=acceptance,
        goodput=goodput,
        generator=np.random.default_rng(seed),
        changes=changes,
        survival=survival,
    )


class Watched:
    """An allocator that remembers what it was asked."""

    def __init__(self, inner):
        self.inner, self.calls = inner, []

    def allocate(self, **arguments) -> Allocation:
        self.calls.append(arguments)
        return self.inner.allocate(**arguments)


def test_tokens_a_round_are_what_acceptance_and_length_promise():
    them = clients([0.3, 0.9])
    played = cell(them, budget=8)
    played.run(rounds=20_000)
    expected = expected_goodput(them.acceptance, np.array([4, 4]))
    np.testing.assert_allclose(played.ledger.goodput_per_round(), expected, rtol=0.02)


def test_where_acceptance_fades_tokens_are_fewer_and_where_it_rises_more():
    them = clients([0.8, 0.8, 0.5], fade=[0.5, 1.0, 1.4])
    played = cell(them, budget=9)
    played.run(rounds=20_000)
    by_hand = [1 + 0.8 + 0.8 * 0.4 + 0.8 * 0.4 * 0.2, 1 + 0.8 + 0.64 + 0.512, 1 + 0.5 + 0.35 + 0.35 * 0.98]
    np.testing.assert_allclose(played.ledger.goodput_per_round(), by_hand, rtol=0.02)


def test_behind_the_barrier_a_round_lasts_as_long_as_the_slowest_draft_and_the_pass():
    them = clients([0.5, 0.5], draft_seconds=[0.01, 0.1], delay_seconds=[0.02, 0.2])
    played = cell(them, budget=8, cost=(0.05, 0.001))
    played.run(rounds=10)
    assert played.ledger.round_seconds[1:] == pytest.approx([0.2 + 4 * 0.1 + 0.05 + 10 * 0.001] * 9)


def test_without_the_barrier_the_quick_do_not_wait_for_the_slow():
    them = clients([0.5, 0.5], draft_seconds=[0.01, 0.1], delay_seconds=[0.02, 0.2])
    played = cell(them, budget=8, cost=(0.05, 0.0), barrier=False)
    played.run(until=60.0)
    quick, slow = (
        played.ledger.tokens / played.ledger.seconds / expected_goodput(them.acceptance, np.array([4, 4]))
    )
    assert quick > 4 * slow
    assert slow > 1 / (0.2 + 4 * 0.1 + 2 * (0.05 + 0.06)) * 0.8


def test_who_is_granted_nothing_waits_for_no_link_where_the_verifier_decodes():
    for decodes, seconds in ((True, 0.05), (False, 0.25)):
        them = clients([0.5], delay_seconds=[0.2])
        played = cell(
            them, allocator=FixedAllocator(0), cost=(0.05, 0.0), barrier=False, verifier_decodes=decodes
        )
        played.run(rounds=10)
        assert played.ledger.round_seconds[1:] == pytest.approx([seconds] * 9)


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
def test_a_late_draft_counts_as_far_as_the_verifiers_own_tokens_agree_with_it(alpha):
    """A draft of 8 takes 0.22 s and passes 0.05 s, so that the sixth round verifies what is left of it."""
    them = clients([alpha], delay_seconds=[0.22])
    played = cell(
        them, allocator=FixedAllocator(8), cost=(0.05, 0.0), budget=8, barrier=False, verifier_decodes=True
    )
    played.run(rounds=12_000)
    rounds, drafted = 6, np.arange(9)
    expected = rounds + (alpha ** drafted[rounds:]).sum()
    assert played.ledger.tokens[0] / 12_000 == pytest.approx(expected / rounds, rel=0.01)


def test_contention_lengthens_passes_by_the_share_of_those_who_hold_a_grant():
    for share, seconds in ((0, 0.05), (1, 0.1), (2, 0.15)):
        them = clients([0.5, 0.5], caps=[8 * (share > 0), 8 * (share > 1)])
        played = cell(them, cost=(0.05, 0.0), contention=2.0)
        played.run(rounds=10)
        assert played.ledger.round_seconds[1:] == pytest.approx([seconds] * 9)


def test_drafts_in_flight_never_exceed_the_budget_with_or_without_the_barrier():
    for barrier in (True, False):
        them = clients(
            np.linspace(0.3, 0.9, 6),
            draft_seconds=np.geomspace(0.005, 0.1, 6),
            delay_seconds=np.full(6, 0.02),
        )
        played = cell(them, allocator=GradientAllocator(), budget=13, barrier=barrier, cost=(0.03, 0.0))
        for _ in range(300):
            played.run(rounds=1)
            assert played._granted.sum() <= 13


def test_the_same_seed_gives_the_same_tokens_and_another_does_not():
    first, again, other = (cell(clients([0.5, 0.7]), seed=seed) for seed in (1, 1, 2))
    for each in (first, again, other):
        each.run(rounds=200)
    assert first.ledger.tokens.tolist() == again.ledger.tokens.tolist() != other.ledger.tokens.tolist()


def test_warm_up_rounds_are_in_no_sum():
    played = cell(clients([0.5, 0.7]), warm_up_rounds=60)
    played.run(rounds=100)
    assert played.ledger.rounds.tolist() == [40, 40]
    assert len(played.ledger.round_seconds) == 40


def test_a_client_that_leaves_and_comes_back_earns_only_while_present():
    changes = Changes(np.array([10.0, 30.0]), np.array([1, 1]), np.array([np.nan, 0.9]))
    played = cell(clients([0.5, 0.5]), changes=changes)
    played.run(until=50.0)
    assert played.ledger.rounds.tolist() == [50, 30]
    assert played.clients.acceptance.tolist() == [0.5, 0.9]


def test_a_cell_that_everyone_left_waits_for_the_next_to_come():
    changes = Changes(np.array([5.0, 40.0]), np.array([0, 0]), np.array([np.nan, 0.5]))
    played = cell(clients([0.5]), changes=changes)
    played.run(until=50.0)
    assert played.rounds == 15
    assert played.now == 50.0


def test_a_new_prompt_changes_what_is_accepted_from_then_on():
    changes = Changes(np.array([2000.0]), np.array([0]), np.array([0.95]))
    played = cell(clients([0.1]), budget=4, changes=changes, every=100)
    played.run(rounds=4000)
    actual = [moment.actual for moment in played.ledger.moments]
    assert np.mean(actual[:20]) == pytest.approx(1.111, abs=0.03)
    assert np.mean(actual[21:]) == pytest.approx(4.524, abs=0.1)


def test_floors_are_granted_to_who_would_get_nothing():
    them = clients([0.9, 0.05], floors=[0, 2])
    played = cell(them, allocator=GradientAllocator(), budget=8, every=1)
    played.run(rounds=200)
    assert played._granted[1] == 2


def test_an_allocator_by_position_is_told_what_was_counted_and_others_are_not():
    them = clients([0.9, 0.9], fade=[0.4, 1.0])
    survival = SurvivalEstimator(longest=8)
    survival.add(0)
    survival.add(1)
    watched = Watched(GradientAllocator())
    cell(them, allocator=watched, survival=survival).run(rounds=2000)
    told = watched.calls[-1]["refinements"].survival
    assert told[0, 1] / told[0, 0] < 0.5 < told[1, 1] / told[1, 0]
    plain = Watched(GradientAllocator())
    cell(them, allocator=plain).run(rounds=5)
    assert plain.calls[-1]["refinements"].survival is None


def test_the_oracle_is_told_the_truth_and_so_errs_and_regrets_nothing():
    them = clients([0.9, 0.3], fade=[0.7, 1.0])
    watched = Watched(GradientAllocator())
    played = cell(them, allocator=watched, omniscient=True, every=10)
    played.run(rounds=200)
    assert watched.calls[-1]["acceptance"].tolist() == [0.9, 0.3]
    np.testing.assert_allclose(watched.calls[-1]["refinements"].survival[0, :2], [0.9, 0.9 * 0.63])
    assert max(moment.error for moment in played.ledger.moments) == 0
    assert max(moment.regret for moment in played.ledger.moments) < 0.02


def test_clients_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"acceptance must lie in \(0, 1\)"):
        clients([1.0])
    with pytest.raises(ValueError, match="fade must be above 0"):
        clients([0.5], fade=[0.0])
    with pytest.raises(ValueError, match="caps has 2 rows, but weights has 1"):
        clients([0.5], caps=[1, 2])
    with pytest.raises(ValueError, match="in order of time"):
        Changes(np.array([2.0, 1.0]), np.array([0, 0]), np.array([0.5, 0.5]))
