"""The life of a verifier's process: it answers probes, loads, serves, drains and stops, in this order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.models.dtype import fingerprint_with
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.process import Place, loaded, stop_signal
from goodspeed_runtime.verifier.http import Orders, application
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.web import WebServer

if TYPE_CHECKING:
    from goodspeed_runtime.decoding.served import ServedModel
    from goodspeed_runtime.verifier.messages import Target

logger = logging.getLogger(__name__)


async def serve(settings: VerifierSettings, uri: ModelURI, place: Place, grpc_port: int) -> int:
    """Serves the target of ``uri`` until a signal, or until passes keep failing.

    Returns:
        The process's exit code; what went wrong is logged.
    """
    stopping = asyncio.create_task(stop_signal().wait())
    metrics = VerifierMetrics()
    state = {"ready": "loading the model", "healthy": ""}
    orders = Orders()
    web = WebServer(application(metrics.registry, lambda: state["healthy"], lambda: state["ready"], orders))
    try:
        await web.start(place.address, place.http_port)
    except OSError as error:
        logger.error("%s", error)
        return 1
    try:
        model, target = await loaded(lambda: _load(settings, uri, place), stopping)
    except (LookupError, ValueError, OSError) as error:
        logger.error("cannot load %s: %s", uri, error)
        return 1

    # They import torch, which takes seconds: probes were answered meanwhile.
    from goodspeed_runtime.verifier.collection import exempt_loaded
    from goodspeed_runtime.verifier.engine import Engine
    from goodspeed_runtime.verifier.ledger import Ledger
    from goodspeed_runtime.verifier.server import SpeculationServer

    exempt_loaded()
    ledger = Ledger(metrics, settings)
    engine = Engine(model, settings, ledger)
    server = SpeculationServer(engine, ledger, settings, target)
    engine.start()
    try:
        port = await server.start(f"{place.address}:{grpc_port}")
    except OSError as error:
        logger.error("%s", error)
        return 1
    state["ready"] = ""
    orders.move, orders.set_budget, orders.most_budget = server.move, engine.set_budget, settings.most_budget
    logger.info("verifier %s serves %s on %s:%d", settings.name, uri, place.address, port)
    failing = asyncio.create_task(asyncio.to_thread(engine.failed.wait))
    await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
    broken = engine.failed.is_set()
    state["ready"] = "draining"
    if broken:
        state["healthy"] = "passes keep failing"
        logger.error("passes keep failing; giving up so that this process is restarted")
    await server.drain(0 if broken else place.drain_seconds)
    engine.stop(5)
    engine.failed.set()
    await web.stop(1)
    logger.info("verifier %s has stopped", settings.name)
    return 1 if broken else 0


def _load(settings: VerifierSettings, uri: ModelURI, place: Place) -> tuple[ServedModel, Target]:
    import torch

    from goodspeed_runtime.decoding import serving
    from goodspeed_runtime.models.loading import load_model
    from goodspeed_runtime.models.tokenizer import load_tokenizer
    from goodspeed_runtime.verifier.messages import Target
    from goodspeed_runtime.verifier.warming import warm_up

    if place.threads:
        torch.set_num_threads(place.threads)
    files = load_model(uri, dtype=place.dtype, device=place.device, cache=place.cache)
    tokenizer = load_tokenizer(uri, cache=place.cache)
    # Drafts in flight never exceed the budget, and each sequence has one more row: its next token.
    rows = settings.most_budget + settings.max_sequences
    model = serving.serve(
        files,
        slots=settings.max_sequences,
        max_context=settings.max_context_tokens,
        max_tokens=rows + settings.prefill_chunk_tokens,
        max_rows=rows,
        batch_invariant=settings.batch_invariant,
        weights=place.weights,
    )
    warm_up(model)
    fingerprint = fingerprint_with(place.weights, files.fingerprint)
    logger.info("loaded %s as %s on %s, fingerprint %s", uri, files.dtype, files.device, fingerprint)
    return model, Target(fingerprint, tokenizer.fingerprint, tokenizer.vocabulary_size, model.vocabulary_size)
