"""A verifier of random weights whose *acceptance is synthetic*: a coin says how many drafted tokens stand.

Random weights accept nothing. Everything is the product's and everything is done and timed: the pass, the
test of every draft, verdicts, grants and gRPC. Only how much of a draft stands is drawn by a seeded coin of
the given acceptance afterwards, so answers mean nothing, and no answer ends but by its length.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
from torch import Tensor

from child_process import leave_with_parent
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.decoding.verification import Request, Verdicts, nothing
from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.http import Orders, application
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import Target
from goodspeed_runtime.verifier.server import SpeculationServer
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.warming import warm_up
from goodspeed_runtime.web import WebServer
from random_model import SHAPES, random_module


class Coin:
    """A lossless test whose outcome is thrown away for a coin's: each drafted token stands by itself."""

    def __init__(self, verify: Callable[..., Verdicts], acceptance: float, seed: int = 0) -> None:
        self._verify = verify
        self._acceptance = acceptance
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, logits: Tensor, requests: Sequence[Request], *, meanwhile: Callable[[], None] = nothing
    ) -> Verdicts:
        """As `verify`; next tokens are its own, ids of the vocabulary at the least."""
        real = self._verify(logits, requests, meanwhile=meanwhile)
        counts = np.array([len(request.draft.tokens) for request in requests], dtype=np.int64)
        places = np.arange(int(counts.max(initial=0)))
        heads = (self._rng.random((counts.size, places.size)) < self._acceptance) & (places < counts[:, None])
        accepted = heads.cumprod(axis=1).sum(axis=1, dtype=np.int64)
        return Verdicts(accepted, real.next_tokens, heads.sum(axis=1).astype(np.float64))


class CoinEngine(Engine):
    """The product's engine but for the outcome of its test."""

    def __init__(
        self, model: ServedModel, settings: VerifierSettings, ledger: Ledger, acceptance: float
    ) -> None:
        super().__init__(model, settings, ledger)
        self._verify = Coin(self._verify, acceptance)


def _load(options: argparse.Namespace, settings: VerifierSettings) -> ServedModel:
    rows = settings.most_budget + settings.max_sequences
    model = serve(
        SimpleNamespace(module=random_module(options.model, options.device)),
        slots=settings.max_sequences,
        max_context=settings.max_context_tokens,
        max_tokens=rows + settings.prefill_chunk_tokens,
        max_rows=rows,
    )
    warm_up(model)
    return model


async def _serve(options: argparse.Namespace) -> None:
    settings = VerifierSettings(
        name="synthetic",
        target_model=f"random weights of shape {options.model}",
        budget_tokens=options.budget_tokens,
        most_budget_tokens=options.most_budget_tokens,
        max_context_tokens=options.max_context_tokens,
        max_sequences=options.max_sequences,
        prefill_chunk_tokens=options.prefill_chunk_tokens,
        objective=options.objective,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    metrics, orders, state = VerifierMetrics(), Orders(), {"ready": "loading the model"}
    web = WebServer(application(metrics.registry, lambda: "", lambda: state["ready"], orders))
    await web.start("127.0.0.1", options.http_port)
    model = await asyncio.to_thread(_load, options, settings)
    ledger = Ledger(metrics, settings)
    engine = CoinEngine(model, settings, ledger, options.acceptance)
    target = Target("random", "random", model.vocabulary_size, model.vocabulary_size)
    server = SpeculationServer(engine, ledger, settings, target)
    engine.start()
    await server.start(f"127.0.0.1:{options.grpc_port}")
    orders.set_budget, orders.most_budget = engine.set_budget, settings.most_budget
    state["ready"] = ""
    await stop.wait()
    await server.drain(0)
    engine.stop(5)
    await web.stop(1)


def main() -> None:
    """Serves until SIGTERM; options as `goodspeed-verifier` has them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="8b", help="shape")
    parser.add_argument("--acceptance", type=float, default=0.8, help="of the synthetic coin")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--budget-tokens", type=int, default=32)
    parser.add_argument("--most-budget-tokens", type=int, default=0)
    parser.add_argument("--max-context-tokens", type=int, default=1024)
    parser.add_argument("--max-sequences", type=int, default=64)
    parser.add_argument("--prefill-chunk-tokens", type=int, default=256)
    parser.add_argument("--objective", choices=("perRound", "perSecond"), default="perRound")
    options = parser.parse_args()
    leave_with_parent()
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
