"""Drafters in this process: the real answers, link and engines, and no HTTP."""

import asyncio
import contextlib
import time

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.generation import Generation
from goodspeed_runtime.drafter.model_engine import ModelEngine
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI


class Slow:
    """An engine that takes its time: so many seconds a call."""

    def __init__(self, engine, seconds):
        self._engine, self._seconds = engine, seconds
        self.fingerprint, self.learn, self.release = engine.fingerprint, engine.learn, engine.release

    def draft(self, jobs):
        time.sleep(self._seconds)
        return self._engine.draft(jobs)


def model_engine(folder, name="draft", *, coupled=False):
    return ModelEngine.load(
        load_model(ModelURI.parse(f"file://{folder / name}"), dtype="float32"),
        slots=8,
        max_context=512,
        support_size=16,
        vocabulary_size=257,
        coupled=coupled,
    )


class Seat:
    """A drafter with its stream up."""

    def __init__(self, cell, tokenizer, engine, name="seat", **settings):
        fields = {"name": name, "pool": "p", "cluster": "c", "model": "test://", "target": "t"}
        fields |= {"verifiers": (cell.address,), "served_model_name": "m"}
        self.metrics = DrafterMetrics("c", "p", name)
        self.generation = Generation(
            DrafterSettings(**(fields | settings)),
            engine,
            self.metrics,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocabulary_size=tokenizer.vocabulary_size,
        )

    @contextlib.asynccontextmanager
    async def serving(self):
        running = asyncio.create_task(self.generation.run())
        try:
            async with asyncio.timeout(30):
                while not self.generation.link.connected:  # noqa: ASYNC110 - the link has no such event
                    await asyncio.sleep(0.01)
            yield self
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def ask(self, prompt, count, *, temperature=0.0, seed=0, tenant=""):
        tokens = []
        async for committed in self.generation.generate(
            prompt,
            max_tokens=count,
            sampling=Sampling(temperature, seed=seed),
            stop_tokens=(),
            tenant=tenant,
        ):
            tokens += committed.tokens
        return tokens

    def metric(self, name, **labels):
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
