"""Runs pods as processes: init containers, probes, restarts with back-off, an orderly end.

It is given pods and never asks where they came from: `Fleet` expands them from
a cluster's manifests, an API server would hold them. Events are told to a
callback, at the time they happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

from goodspeed_operator.local.backoff import Backoff
from goodspeed_operator.local.container import Command, ContainerError, Surroundings, resolve
from goodspeed_operator.local.expansion import Manifest
from goodspeed_operator.local.pod_status import Observer, Phase, PodStatus
from goodspeed_operator.local.probe import Probe, Tally
from goodspeed_operator.local.prober import Prober
from goodspeed_operator.local.process import Child, ended
from goodspeed_operator.local.tether import Tether

EAGER_SECONDS = 0.25
DEFAULT_GRACE_SECONDS = 30.0


class InitialisationError(ContainerError):
    """An init container failed.

    Attributes:
        container: its name.
        code: its exit code.
    """

    def __init__(self, container: str, command: Command, code: int) -> None:
        super().__init__(f"{' '.join(command.argv)} {ended(code)}")
        self.container = container
        self.code = code


class Kubelet:
    """Runs pods until it is closed.

    Each distinct init container runs once for all pods: on one machine they share
    a disk, and the second would do the same work over.
    """

    def __init__(
        self, logs: Path, observer: Observer = lambda status: None, backoff: Backoff | None = None
    ) -> None:
        self.statuses: dict[str, PodStatus] = {}
        self._logs = logs
        self._observer = observer
        self._backoff = backoff or Backoff()
        self._tether = Tether()
        self._prober = Prober()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._initialised: dict[tuple[str, ...], asyncio.Lock] = {}
        self._done: set[tuple[str, ...]] = set()

    async def initialise(self, pod: Manifest, around: Surroundings, logs: Path | None = None) -> None:
        """Runs the pod's init containers that no pod has run yet.

        Args:
            pod: its manifest.
            around: what it finds around it.
            logs: folder for their output; None leaves progress on standard error, where somebody watches.

        Raises:
            ContainerError: one failed.
        """
        for container in pod["spec"].get("initContainers", ()):
            command = resolve(pod, container, around)
            async with self._initialised.setdefault(command.argv, asyncio.Lock()):
                if command.argv in self._done:
                    continue
                log = logs / f"{command.name}.log" if logs else None
                child = await Child.start(command, self._tether, log)
                try:
                    code = await child.wait()
                finally:
                    await child.stop(5)
                if code:
                    raise InitialisationError(command.name, command, code)
                self._done.add(command.argv)

    def start(
        self, pod: Manifest, around: Surroundings, *, key: str = "", init_logs: bool = False
    ) -> PodStatus:
        """Starts a pod; returns at once.

        Args:
            pod: its manifest.
            around: what it finds around it.
            key: names it among all pods here; its own name when empty.
            init_logs: init containers write to logs, not to standard error.

        Raises:
            ContainerError: a container of it cannot run here.
        """
        name = key or pod["metadata"]["name"]
        commands = [resolve(pod, container, around) for container in pod["spec"]["containers"]]
        folder = self._logs / name
        folder.mkdir(parents=True, exist_ok=True)
        status = PodStatus(pod["metadata"]["name"], around.address, folder / f"{commands[0].name}.log")
        grace = float(pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))
        stop = asyncio.Event()
        self.statuses[name], self._stops[name] = status, stop
        self._tasks[name] = asyncio.create_task(
            self._run(pod, around, commands, status, stop, grace, init_logs), name=f"pod {name}"
        )
        return status

    async def stop(self, name: str) -> None:
        """Ends a pod, within its grace period."""
        self._stops[name].set()
        await self._tasks[name]

    async def close(self) -> None:
        """Ends every pod at once, then whatever might be left."""
        for stop in self._stops.values():
            stop.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._prober.close()
        self._tether.close()

    async def _run(
        self,
        pod: Manifest,
        around: Surroundings,
        commands: list[Command],
        status: PodStatus,
        stop: asyncio.Event,
        grace: float,
        init_logs: bool,
    ) -> None:
        logs = status.log.parent if init_logs else None
        policy = pod["spec"].get("restartPolicy", "Always")
        while not stop.is_set():
            try:
                self._tell(status, Phase.PULLING)
                await _unless(stop, self.initialise(pod, around, logs))
                status.initialised = True
                status.crashes = 0
                break
            except ContainerError as error:
                if isinstance(error, InitialisationError):
                    status.exits[error.container] = error.code
                status.crashes += 1
                self._tell(status, Phase.BACK_OFF, str(error))
                await _sleep(stop, self._backoff.delay(status.crashes))
        ready = dict.fromkeys((command.name for command in commands), False)
        await asyncio.gather(
            *(self._keep(command, around.address, status, ready, stop, grace, policy) for command in commands)
        )
        self._tell(status, Phase.STOPPED if stop.is_set() else Phase.ENDED)

    async def _keep(
        self,
        command: Command,
        address: str,
        status: PodStatus,
        ready: dict[str, bool],
        stop: asyncio.Event,
        grace: float,
        policy: str,
    ) -> None:
        """Keeps one container running until the pod is to stop, or as long as its restart policy says."""
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            began, reason = clock(), ""
            self._tell(status, Phase.STARTING, status.message)
            try:
                child = await Child.start(command, self._tether, status.log.with_name(f"{command.name}.log"))
            except ContainerError as error:
                reason = str(error)
            else:
                status.pids[command.name] = child.pid
                reason = await self._watch(command, child, address, status, ready, stop, grace)
                del status.pids[command.name]
            ready[command.name] = False
            done = policy == "Never" or (policy == "OnFailure" and status.exits.get(command.name) == 0)
            if stop.is_set() or done:
                return
            status.restarts += 1
            status.crashes = self._backoff.crashes(status.crashes, clock() - began)
            self._tell(status, Phase.BACK_OFF, reason)
            await _sleep(stop, self._backoff.delay(status.crashes))

    async def _watch(
        self,
        command: Command,
        child: Child,
        address: str,
        status: PodStatus,
        ready: dict[str, bool],
        stop: asyncio.Event,
        grace: float,
    ) -> str:
        """Waits for the end of one run, probing meanwhile; returns why it ended, in words."""

        def readiness(is_ready: bool, why: str) -> None:
            ready[command.name] = is_ready
            if all(ready.values()):
                status.was_ready = True
                self._tell(status, Phase.READY)
            else:
                self._tell(status, Phase.UNREADY if status.was_ready else Phase.STARTING, why)

        end = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(stop.wait())
        probing = asyncio.create_task(self._probe(command, address, readiness))
        try:
            await asyncio.wait({end, stopping, probing}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return ended(end.result())
            if stop.is_set():
                return "stopped"
            return probing.result()
        finally:
            probing.cancel()
            stopping.cancel()
            await asyncio.gather(probing, stopping, return_exceptions=True)
            await child.stop(grace)
            status.exits[command.name] = await end

    async def _probe(self, command: Command, address: str, readiness: Callable[[bool, str], None]) -> str:
        """Probes until startup or liveness fails for good; returns why, in words."""
        if command.startup:
            probe = command.startup.eager(EAGER_SECONDS)
            async for tally, why in self._tallies(probe, address, command):
                if tally.verdict is True:
                    break
                readiness(False, why)
                if tally.verdict is False:
                    return f"startup probe failed: {why}"
        ready = asyncio.create_task(self._probe_readiness(command, address, readiness))
        try:
            if command.liveness is None:
                await asyncio.Event().wait()
            else:
                async for tally, why in self._tallies(command.liveness, address, command):
                    if tally.verdict is False:
                        return f"liveness probe failed: {why}"
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        raise AssertionError("probing has no end of its own")

    async def _probe_readiness(
        self, command: Command, address: str, readiness: Callable[[bool, str], None]
    ) -> None:
        if command.readiness is None:
            readiness(True, "")
            return
        while True:
            for probe, wanted in ((command.readiness.eager(EAGER_SECONDS), True), (command.readiness, False)):
                async for tally, why in self._tallies(probe, address, command):
                    if tally.verdict is wanted:
                        readiness(wanted, why)
                        break
                    if wanted:
                        readiness(False, why)

    async def _tallies(
        self, probe: Probe, address: str, command: Command
    ) -> AsyncIterator[tuple[Tally, str]]:
        tally = Tally()
        await asyncio.sleep(probe.initial_delay)
        while True:
            succeeded, why = await self._prober.ask(probe, address, command.environment)
            tally = tally.after(succeeded, probe)
            yield tally, why
            await asyncio.sleep(probe.period)

    def _tell(self, status: PodStatus, phase: Phase, message: str = "") -> None:
        if (status.phase, status.message) != (phase, message):
            status.phase, status.message = phase, message
            self._observer(status)


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Does the work, or ends it when it is time to stop."""
    task, stopping = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    else:
        task.result()


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    """Sleeps, but not past the stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
