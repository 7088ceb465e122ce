"""A change of target model, played out against a small model of a Kubernetes cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from goodspeed_operator.resources.rollout import PoolRollout, RolloutPlan, Step, VerifierSet, plan_rollout


@dataclass
class World:
    """Cells get ready one tick after they are scheduled; pools roll one tick after they are told."""

    gpus: int
    replicas: dict[str, int]
    running: dict[str, int]
    pools: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def observe(self) -> tuple[list[VerifierSet], list[PoolRollout]]:
        sets = [
            VerifierSet(name, count, min(self.running.get(name, 0), count), self.running.get(name, 0) < count)
            for name, count in self.replicas.items()
        ]
        return sets, [PoolRollout(name, *state) for name, state in self.pools.items()]

    def act(self, plan: RolloutPlan) -> None:
        self.pools = {
            name: (plan.drafters, revision == plan.drafters and (done or self.running.get(revision, 0) > 0))
            for name, (revision, done) in self.pools.items()
        }
        self.replicas = dict(plan.replicas)
        self.running = {name: min(self.running.get(name, 0), count) for name, count in self.replicas.items()}
        for name, count in self.replicas.items():
            if self.running[name] < count and sum(self.running.values()) < self.gpus:
                self.running[name] += 1
                break


def serving(world: World) -> int:
    return sum(world.running.get(revision, 0) for revision, _ in world.pools.values())


def settle(world: World, revision: str, cells: int, *, ticks: int = 100) -> int:
    for tick in range(ticks):
        plan = plan_rollout(revision, cells, *world.observe())
        if plan.step is Step.STEADY and world.running == {revision: cells}:
            return tick
        world.act(plan)
    raise AssertionError(f"not settled: {world}")


def started(cells: int, gpus: int) -> World:
    return World(gpus, {"a": cells}, {"a": cells}, {"one": ("a", True), "two": ("a", True)})


@given(cells=st.integers(1, 6), spare=st.integers(0, 6))
def test_every_change_of_target_settles_with_all_cells_on_the_new_one(cells: int, spare: int) -> None:
    world = started(cells, cells + spare)
    settle(world, "b", cells)
    assert world.replicas == {"b": cells}
    assert set(world.pools.values()) == {("b", True)}


@given(cells=st.integers(1, 6), spare=st.integers(0, 6))
def test_drafters_always_have_a_cell_unless_the_only_gpu_must_change_hands(cells: int, spare: int) -> None:
    world = started(cells, cells + spare)
    for _ in range(60):
        world.act(plan_rollout("b", cells, *world.observe()))
        if cells + spare > 1:
            assert serving(world) > 0


@given(cells=st.integers(1, 6), spare=st.integers(0, 6), turn=st.integers(0, 30))
def test_turning_back_at_any_moment_settles_on_the_old_target(cells: int, spare: int, turn: int) -> None:
    world = started(cells, cells + spare)
    for _ in range(turn):
        world.act(plan_rollout("b", cells, *world.observe()))
    settle(world, "a", cells)
    assert world.replicas == {"a": cells}


@given(cells=st.integers(1, 6), spare=st.integers(0, 6), third=st.integers(0, 20))
def test_a_third_target_in_the_middle_settles_too(cells: int, spare: int, third: int) -> None:
    world = started(cells, cells + spare)
    for _ in range(third):
        world.act(plan_rollout("b", cells, *world.observe()))
    settle(world, "c", cells)
    assert world.replicas == {"c": cells}


def test_with_room_to_spare_no_old_cell_goes_before_the_drafters_have_moved() -> None:
    world = started(3, 6)
    while world.pools["one"] != ("b", True):
        world.act(plan_rollout("b", 3, *world.observe()))
        assert world.running["a"] == 3


def test_without_room_one_old_cell_at_a_time_makes_room() -> None:
    world = started(4, 4)
    while "a" in world.replicas:
        before = world.replicas["a"]
        world.act(plan_rollout("b", 4, *world.observe()))
        after = world.replicas.get("a", 0)
        assert before - after <= 1 or world.pools["one"] == ("b", True)


def test_a_new_cluster_is_steady_from_the_start() -> None:
    assert plan_rollout("a", 2, [], []) == RolloutPlan({"a": 2}, "a", Step.STEADY)
