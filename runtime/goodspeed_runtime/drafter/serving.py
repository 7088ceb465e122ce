"""The life of a drafter's process: it answers probes, loads, drafts, finishes its requests and stops."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from goodspeed_runtime.drafter.access import Access, Keys
from goodspeed_runtime.drafter.api import application
from goodspeed_runtime.drafter.completion import Completions
from goodspeed_runtime.drafter.generation import Generation
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.models.uri import ModelURI, Scheme
from goodspeed_runtime.process import Place, loaded, stop_signal
from goodspeed_runtime.web import WebServer

if TYPE_CHECKING:
    from goodspeed_runtime.drafter.engine import DraftEngine
    from goodspeed_runtime.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

REFUSALS_TO_GIVE_UP = 5


async def serve(settings: DrafterSettings, model: ModelURI, target: ModelURI, place: Place) -> int:
    """Drafts with ``model`` until a signal, a lasting refusal of its verifiers or a failure.

    Returns:
        The process's exit code; what went wrong is logged.
    """
    stop = stop_signal()
    stopping = asyncio.create_task(stop.wait())
    metrics = DrafterMetrics(settings.cluster, settings.pool, settings.name)
    serving: list[tuple[Generation, Completions]] = []

    def ready() -> str:
        if stop.is_set():
            return "stopping"
        if not serving:
            return "loading the model"
        link = serving[0][0].link
        if link.refusal:
            return f"refused by verifier {link.address}: {link.refusal}"
        return "" if link.connected else f"waiting for verifier {link.address}"

    try:
        files = {name: Path(path) for name, path in settings.tenant_keys}
        access = Access(settings.tenants, Keys(files) if files else None)
        web = WebServer(application(lambda: serving[0][1] if serving else None, metrics, ready, access))
        await web.start(place.address, place.http_port)
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        return 1
    try:
        engine, tokenizer = await loaded(lambda: _load(settings, model, target, place), stopping)
    except (LookupError, ValueError, OSError) as error:
        logger.error("cannot load %s: %s", model, error)
        return 1
    generation = Generation(
        settings,
        engine,
        metrics,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
    )
    serving.append((generation, Completions(generation, tokenizer, settings.served_model_name)))
    running = asyncio.create_task(generation.run())
    logger.info("drafter %s drafts with %s on %s:%d", settings.name, model, place.address, web.port)
    while not stopping.done() and not running.done():
        await asyncio.wait({stopping, running}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        if generation.link.refusals >= REFUSALS_TO_GIVE_UP:
            logger.error("refused by verifier %s: %s", generation.link.address, generation.link.refusal)
            await web.stop(1)
            return 1
    broken = running.done()
    if broken:
        logger.error("drafting has ended by itself; giving up", exc_info=running.exception())
    # Requests under way go on while no new connection is taken.
    await web.stop(1 if broken else place.drain_seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    logger.info("drafter %s has stopped", settings.name)
    return 1 if broken else 0


def _load(
    settings: DrafterSettings, model: ModelURI, target: ModelURI, place: Place
) -> tuple[DraftEngine, Tokenizer]:
    from goodspeed_runtime.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(target, cache=place.cache)
    if model.scheme is Scheme.NGRAM:
        from goodspeed_runtime.drafter.lookup import LookupEngine

        return LookupEngine(), tokenizer

    import torch

    from goodspeed_runtime.drafter.model_engine import ModelEngine
    from goodspeed_runtime.models.loading import load_model

    if place.threads:
        torch.set_num_threads(place.threads)
    if model.scheme is not Scheme.BUILTIN:
        _same_tokenizer(load_tokenizer(model, cache=place.cache), model, tokenizer, target)
    files = load_model(model, target=target, dtype=place.dtype, device=place.device, cache=place.cache)
    engine = ModelEngine.load(
        files,
        slots=settings.max_sequences,
        max_context=settings.max_context_tokens,
        support_size=settings.support_size,
        vocabulary_size=tokenizer.vocabulary_size,
        coupled=settings.verification == "coupled",
        weights=place.weights,
    )
    logger.info("loaded %s as %s on %s, fingerprint %s", model, files.dtype, files.device, engine.fingerprint)
    return engine, tokenizer


def _same_tokenizer(mine: Tokenizer, model: ModelURI, tokenizer: Tokenizer, target: ModelURI) -> None:
    """Raises ValueError when the two models do not mean the same by a token id."""
    if mine.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"{model} has a vocabulary of {mine.vocabulary_size} ids, tokenizer {mine.fingerprint}; "
            f"the target {target} has {tokenizer.vocabulary_size} ids, tokenizer {tokenizer.fingerprint}: "
            "choose a draft model with the target's tokenizer"
        )
