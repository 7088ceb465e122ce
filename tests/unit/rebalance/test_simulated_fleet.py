"""The fleet simulator plays rounds and hands what they show to the operator's own decision function."""

import pytest

from goodspeed_runtime.simulate import fleet as simulator
from goodspeed_runtime.simulate.comparison import compare
from goodspeed_runtime.simulate.loading import preset


@pytest.fixture(scope="module")
def played():
    # The slow loop decides every 30 s, the first time after about 600 rounds.
    comparison = compare(preset("fleet"), rounds=4000)
    return {row.allocator: row for row in comparison.rows}, {
        each.player.name: each.fleet for each in comparison.played
    }


def test_it_is_the_function_that_the_operator_calls():
    from goodspeed_runtime.rebalancing.decide import decide

    assert simulator.decide is decide


@pytest.mark.slow
def test_rebalancing_gains_goodput_and_equal_prices(played):
    rows, moments = played
    assert rows["rebalancing"].gain > 0.03
    assert moments["rebalancing"][-1].price_spread < 0.2 < moments["no rebalancing"][-1].price_spread
    assert sum(moment.moves for moment in moments["no rebalancing"]) == 0


@pytest.mark.slow
def test_it_converges_within_three_intervals_and_then_moves_nobody_back_and_forth(played):
    _, moments = played
    moves = [moment.moves for moment in moments["rebalancing"]]
    assert sum(moves[:3]) > 0
    assert sum(moves[3:]) <= 0.05 * sum(moves)
