"""The operator is healthy as long as its reconciles go on."""

from __future__ import annotations

from goodspeed_operator.handlers.health import Health


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_replica_that_waits_for_the_lease_is_healthy_however_long_it_waits() -> None:
    clock = Clock()
    health = Health(stale_seconds=60, clock=clock)
    clock.now = 10_000
    assert health.verdict()[0]


def test_a_leader_is_unhealthy_once_its_last_reconcile_is_too_old_and_recovers() -> None:
    clock = Clock()
    clock.now = 5_000
    health = Health(stale_seconds=60, clock=clock)
    health.started_leading()
    clock.now += 59
    assert health.verdict()[0]
    clock.now += 2
    well, words = health.verdict()
    assert not well
    assert "no reconcile for 61 s" in words
    health.reconciled()
    assert health.verdict()[0]
