"""The drafters that ship inside goodspeed: a few layers each, the target's own embedding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodspeed_runtime.models.integers import FILE, GROUP, Integers, of_rows, read_integers
from goodspeed_runtime.models.uri import ModelNotFoundError, ModelURI

if TYPE_CHECKING:
    import torch

DATA = Path(__file__).parent / "data"
PROPOSALS = DATA / "smollm2-135m-proposals.npy"
"""What all of them propose; see `proposals`."""


def builtin_file(uri: ModelURI) -> Path:
    """The weights of a built-in drafter.

    Raises:
        ModelNotFoundError: there is none of that name; the message lists those there are.
    """
    path = DATA / f"{uri.path}.safetensors"
    if not path.is_file():
        names = ", ".join(f"builtin://{found.stem}" for found in sorted(DATA.glob("*.safetensors")))
        raise ModelNotFoundError(f"{uri} is not built in; there are {names}")
    return path


def load_drafter(path: Path, target: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """A drafter's layers between the target's embedding and, tied, its output head.

    Args:
        path: quantised layers with the model's config in the metadata.
        target: the target's folder; only its embedding is read.
        dtype: to run in.
        device: to run on.

    Returns:
        A transformers ``LlamaForCausalLM`` in eval mode.

    Raises:
        ModelNotFoundError: the target has no embedding of the drafter's shape.
    """
    import json

    import torch
    from safetensors import safe_open
    from safetensors.numpy import load_file
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaRotaryEmbedding

    from goodspeed_runtime.models.quantise import dequantise

    with safe_open(path, "np") as file:
        config = LlamaConfig(**json.loads(file.metadata()["config"]))
    config.dtype = dtype
    state = {
        name: torch.from_numpy(value).to(device, dtype) for name, value in dequantise(load_file(path)).items()
    }
    embedding = _embedding(target).to(device, dtype)
    if tuple(embedding.shape) != (config.vocab_size, config.hidden_size):
        raise ModelNotFoundError(
            f"{path.stem} was made for an embedding of {config.vocab_size} x {config.hidden_size}, "
            f"the target's is {embedding.shape[0]} x {embedding.shape[1]}: choose a drafter of this target"
        )
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = embedding
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    return model.eval().requires_grad_(requires_grad=False)


def drafter_integers(path: Path, target: Path) -> dict[str, Integers]:
    """A drafter's matrices as they ship, and the target's embedding as its file stores it, if it does."""
    from safetensors.numpy import load_file

    from goodspeed_runtime.models.quantise import SCALE_SUFFIX

    state = load_file(path)
    found = {
        name: of_rows(value, state[name + SCALE_SUFFIX])
        for name, value in state.items()
        if value.dtype == np.int8 and value.shape[1] % GROUP == 0
    }
    stored = target / FILE
    name = "model.embed_tokens.weight"
    if stored.is_file() and (embedding := read_integers(stored, only=name).get(name)) is not None:
        found[name] = embedding
    return found


def _embedding(target: Path) -> torch.Tensor:
    from safetensors import safe_open

    for path in sorted(target.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if name.endswith("embed_tokens.weight"):
                    found: torch.Tensor = file.get_tensor(name)
                    return found
    raise ModelNotFoundError(f"{target} has no embed_tokens.weight")
