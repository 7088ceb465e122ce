"""A verifier in this process behind a real gRPC server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from emulation.synthetic import VOCABULARY
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import Target
from goodspeed_runtime.verifier.server import SpeculationServer
from goodspeed_runtime.verifier.settings import VerifierSettings

SYNTHETIC = Target("synthetic", "synthetic", VOCABULARY, VOCABULARY)
HOST = "127.0.0.1"


class Cell:
    """One verifier.

    Attributes:
        model: the target.
        metrics: as served at /metrics.
        engine: its compute thread.
        port: of its gRPC server.
    """

    def __init__(self, model: ServedModel, settings: VerifierSettings, target: Target = SYNTHETIC) -> None:
        self.model = model
        self.metrics = VerifierMetrics()
        ledger = Ledger(self.metrics, settings)
        self.engine = Engine(model, settings, ledger)
        self._server = SpeculationServer(self.engine, ledger, settings, target)
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Cell]:
        """Until the block ends."""
        self.engine.start()
        self.port = await self._server.start(f"{HOST}:0")
        try:
            yield self
        finally:
            await self._server.drain(0)
            self.engine.stop(10)

    def total(self, name: str, **labels: str) -> float:
        """Sum of the metric's samples that carry these labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
