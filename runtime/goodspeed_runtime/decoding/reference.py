"""The target alone, to hold answers against: transformers' own pass and cache, one token at a time.

Shares nothing with the packed pass, so an error there cannot hide here. Two
correct implementations still round differently, and where the two likeliest
tokens are nearly tied they may choose differently and go on differently; the
comparison follows the answer's own tokens and tells such places from errors.

    python -m goodspeed_runtime.decoding.reference --model URI < answers.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import DynamicCache

from goodspeed_runtime.decoding.int8 import round_in_place
from goodspeed_runtime.models.dtype import Device, DType, Weights
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI

NEAR_TIE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.03}
"""How far below the reference's largest logit another implementation's choice may lie."""


class _Loaded(Protocol):
    @property
    def module(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """An answer held against the target's own greedy decoding.

    Attributes:
        tokens: how many of the answer's tokens were looked at.
        near_ties: at how many the reference preferred another token by no more than the tolerance.
        wrong: index of the first token that the reference rejects by more, None if there is none.
        gap: by how much, in logits; 0 if there is none.
    """

    tokens: int
    near_ties: int
    wrong: int | None
    gap: float

    @property
    def equal(self) -> bool:
        """Whether every token is the reference's own choice."""
        return self.near_ties == 0 and self.wrong is None


class Reference:
    """Plain greedy decoding by a transformers model with its own attention."""

    def __init__(self, loaded: _Loaded) -> None:
        self._module = loaded.module
        self._device = next(self._module.parameters()).device
        self.tolerance = NEAR_TIE[next(self._module.parameters()).dtype]

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], max_tokens: int, stop_tokens: Collection[int] = ()) -> list[int]:
        """Continues a prompt by the likeliest token until a stop token or the limit, both included."""
        cache = DynamicCache(config=self._module.config)
        logits = self._logits(prompt, cache)
        answer: list[int] = []
        while True:
            answer.append(int(logits.argmax()))
            if len(answer) == max_tokens or answer[-1] in stop_tokens:
                return answer
            logits = self._logits(answer[-1:], cache)

    @torch.inference_mode()
    def compare(self, prompt: Sequence[int], answer: Sequence[int]) -> Comparison:
        """Walks an answer token by token, going on from the answer's own token after a near-tie.

        Args:
            prompt: ids, at least one.
            answer: ids that claim to be the greedy continuation.

        Returns:
            What was found, up to the first wrong token.
        """
        cache = DynamicCache(config=self._module.config)
        fed: Sequence[int] = prompt
        near_ties = 0
        for index, token in enumerate(answer):
            logits = self._logits(fed, cache)
            if int(logits.argmax()) != token:
                gap = float(logits.max() - logits[token])
                if not gap <= self.tolerance:
                    return Comparison(index + 1, near_ties, index, gap)
                near_ties += 1
            fed = [token]
        return Comparison(len(answer), near_ties, None, 0.0)

    def _logits(self, tokens: Sequence[int], cache: DynamicCache) -> Tensor:
        """Float32 ``[vocabulary]`` after the last of `tokens`, which join the cache."""
        ids = torch.tensor([list(tokens)], device=self._device)
        output = self._module(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return torch.as_tensor(output.logits[0, -1]).float()


def _parse(number: int, line: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(line)
        if not answer["prompt_token_ids"] or not isinstance(answer["token_ids"], list):
            raise ValueError("prompt_token_ids must not be empty and token_ids must be a list")
    except (ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(
            f"line {number}: {error!r}; each line needs prompt_token_ids and token_ids, lists of ids"
        ) from error
    return answer


def main(
    model: Annotated[str, typer.Option(help="Model URI of the target, as the verifier was given.")],
    dtype: Annotated[DType, typer.Option(help="The verifier's.")] = "auto",
    weights: Annotated[Weights, typer.Option(help="The verifier's.")] = "model",
    device: Annotated[Device, typer.Option(help="Where to run.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Model cache folder.", envvar="GOODSPEED_CACHE")] = None,
) -> None:
    """Holds answers given at temperature 0 against the target's own plain greedy decoding.

    Reads JSON lines from standard input, each with prompt_token_ids and token_ids, and
    answers each with a line: the object's other fields, and tokens, near_ties, wrong, gap, equal.
    Exits with 1 when an answer is wrong.
    """
    answers = [_parse(number, line) for number, line in enumerate(sys.stdin, 1) if line.strip()]
    loaded = load_model(ModelURI.parse(model), dtype=dtype, device=device, cache=cache)
    if weights == "int8":
        round_in_place(loaded.module)
    reference = Reference(loaded)
    wrong = False
    for answer in track(answers, "Comparing with the target alone", console=Console(stderr=True)):
        comparison = reference.compare(answer.pop("prompt_token_ids"), answer.pop("token_ids"))
        wrong |= comparison.wrong is not None
        sys.stdout.write(json.dumps(answer | asdict(comparison) | {"equal": comparison.equal}) + "\n")
        sys.stdout.flush()
    sys.exit(int(wrong))


if __name__ == "__main__":
    typer.run(main)
