"""Networks between real gRPC ends: every byte passes a relay that delays it as a stated link would.

Two ways. *In process*, a TCP proxy holds bytes back: delay, jitter, bandwidth, and loss as the delay of a
retransmission, in order. In *namespaces*, packets cross a pair of TUN devices between this network namespace
and another, and are delayed, spaced and dropped one by one, so that loss and congestion are the kernel's own
TCP's to handle; that needs root and /dev/net/tun (tc's netem is not needed, and not in every kernel).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SEGMENT_BYTES = 1448
_LOST_SECONDS = 0.2
"""Linux waits at least so long before it sends again what nobody has acknowledged."""
_CHUNK = 65536
_TUN_SET = 0x400454CA
_TUN_FLAGS = 0x1001
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the verifier and back, both directions alike.

    Attributes:
        trip: seconds of a round trip.
        jitter: seconds by which a packet's delay varies, at most.
        bandwidth: bytes per second; 0 is without limit.
        loss: share of packets that are lost.
    """

    trip: float = 0.0
    jitter: float = 0.0
    bandwidth: float = 0.0
    loss: float = 0.0


@dataclass(slots=True)
class Traffic:
    """Payload bytes of TCP, HTTP/2's frames and headers included.

    Attributes:
        up: from the drafter to the verifier.
        down: from the verifier to the drafter.
    """

    up: int = 0
    down: int = 0


class _Pipe:
    """When what enters a link comes out of it."""

    def __init__(self, path: Way, seed: int) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._free = 0.0

    def due(self, now: float, size: int) -> float:
        """Monotonic seconds at which a packet that enters now arrives."""
        path = self._path
        self._free = max(now, self._free) + (size / path.bandwidth if path.bandwidth else 0.0)
        return self._free + path.trip / 2 + self._random.uniform(0, path.jitter)

    def lost(self) -> bool:
        """Whether this packet is."""
        return bool(self._path.loss) and self._random.random() < self._path.loss


class Proxy:
    """A TCP relay to a verifier that counts, and holds back what its path would.

    Attributes:
        traffic: counted so far.
        address: ``host:port`` that drafters dial.
    """

    def __init__(self, path: Way, port: int, seed: int = 0) -> None:
        self._path = path
        self._port = port
        self._seed = seed
        self.traffic = Traffic()
        self.address = ""

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket | None = None) -> AsyncIterator[Proxy]:
        """Relays until the block ends; on loopback unless a listener is given."""
        listener = listener or socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()[:2]
        self.address = f"{host}:{port}"
        server = await asyncio.start_server(self._relay, sock=listener)
        try:
            yield self
        finally:
            server.close()

    async def _relay(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far, far_out = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(
                self._carry(near, far_out, 2 * self._seed, up=True),
                self._carry(far, near_out, 2 * self._seed + 1, up=False),
            )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            near_out.close()
            far_out.close()

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, seed: int, *, up: bool
    ) -> None:
        sink.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(queue, sink))
        pipe, loop, latest = _Pipe(self._path, seed), asyncio.get_running_loop(), 0.0
        try:
            while data := await source.read(_CHUNK):
                if up:
                    self.traffic.up += len(data)
                else:
                    self.traffic.down += len(data)
                for start in range(0, len(data), SEGMENT_BYTES):
                    part = data[start : start + SEGMENT_BYTES]
                    due = pipe.due(loop.time(), len(part))
                    if pipe.lost():
                        due += max(_LOST_SECONDS, 1.5 * self._path.trip)
                    # What follows a lost packet waits for it.
                    latest = max(latest, due)
                    queue.put_nowait((latest, part))
        finally:
            sending.cancel()
            sink.close()

    async def _send(self, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            sink.write(data)
            await sink.drain()


class Namespace:
    """A network namespace behind a link of its own, and a listener in it."""

    def __init__(self, number: int, path: Way) -> None:
        self._name = f"goodspeed-{os.getpid()}-{number}"
        self._path = path
        self._devices = (f"gs{number}a", f"gs{number}b")
        self._over = False
        self._near, self._far = f"10.77.{number}.1", f"10.77.{number}.2"

    @staticmethod
    def missing() -> str:
        """What this machine lacks for it; empty where nothing."""
        if os.geteuid() != 0:
            return "needs root"
        if not Path("/dev/net/tun").exists():
            return "needs /dev/net/tun"
        if subprocess.run(["sh", "-c", "command -v ip"], capture_output=True, check=False).returncode:
            return "needs ip of iproute2"
        name = f"goodspeed-{os.getpid()}-probe"
        probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        return f"ip netns: {probe.stderr.strip()}" if probe.returncode else ""

    @contextlib.asynccontextmanager
    async def listener(self) -> AsyncIterator[socket.socket]:
        """A socket that listens inside, reached over the link."""
        near, far = self._devices
        await _run(["ip", "netns", "add", self._name])
        ends = [_tun(device) for device in self._devices]
        loop = asyncio.get_running_loop()
        try:
            await _run(["ip", "link", "set", far, "netns", self._name])
            await _run(["ip", "addr", "add", self._near, "peer", self._far, "dev", near])
            await _run(["ip", "link", "set", near, "up"])
            inside = ["ip", "netns", "exec", self._name, "ip"]
            await _run([*inside, "addr", "add", self._far, "peer", self._near, "dev", far])
            await _run([*inside, "link", "set", far, "up"])
            for index, (end, other) in enumerate([tuple(ends), tuple(ends[::-1])]):
                loop.add_reader(end, self._forward, end, other, _Pipe(self._path, index))
            # A socket belongs to the namespace of the thread that made it.
            with ThreadPoolExecutor(1) as thread:
                yield await loop.run_in_executor(thread, self._listen)
        finally:
            self._over = True
            for end in ends:
                loop.remove_reader(end)
                os.close(end)
            await _run(["ip", "netns", "del", self._name])

    def _listen(self) -> socket.socket:
        with Path(f"/run/netns/{self._name}").open() as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            return socket.create_server((self._far, 0))

    def _forward(self, source: int, sink: int, pipe: _Pipe) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(source, _CHUNK)
                due = pipe.due(loop.time(), len(packet))
                if not pipe.lost():
                    loop.call_at(due, self._deliver, sink, packet)

    def _deliver(self, sink: int, packet: bytes) -> None:
        # A full queue drops, as any router's does; after the end the number may be another file's.
        if not self._over:
            with contextlib.suppress(OSError):
                os.write(sink, packet)


def _tun(device: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUN_SET, struct.pack("16sH22x", device.encode(), _TUN_FLAGS))
    return end


async def _run(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    if process.returncode:
        raise OSError(f"{' '.join(command)}: {error.decode().strip()}")
