"""Loads a model, ready to be run: weights in safetensors only, no code but transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from goodspeed_runtime.models.builtin import PROPOSALS, builtin_file, drafter_integers, load_drafter
from goodspeed_runtime.models.dtype import Device, DType, choose_dtype
from goodspeed_runtime.models.fingerprint import fingerprint_of
from goodspeed_runtime.models.folder import Report, silent
from goodspeed_runtime.models.integers import FILE, Integers, read_integers
from goodspeed_runtime.models.proposals import read_proposals
from goodspeed_runtime.models.resolve import resolve
from goodspeed_runtime.models.uri import ModelNotFoundError, ModelURI, Scheme


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode on its device.

    Attributes:
        uri: where it came from.
        module: a transformers causal language model.
        fingerprint: of its weights.
        dtype: it runs in.
        device: it runs on.
        proposals: int32, rising: the only ids that it should propose as a drafter; None for all.
        integers: matrices by the names of their weights, where the file stores them so; see `integers`.
    """

    uri: ModelURI
    module: Any
    fingerprint: str
    dtype: torch.dtype
    device: torch.device
    proposals: npt.NDArray[np.int32] | None = None
    integers: Mapping[str, Integers] = field(default_factory=dict)


def choose_device(device: Device) -> torch.device:
    """CUDA when there is one, else the CPU, unless told.

    Raises:
        ValueError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def load_model(
    uri: ModelURI,
    *,
    target: ModelURI | None = None,
    dtype: DType = "auto",
    device: Device = "auto",
    cache: Path | None = None,
    report: Report = silent,
) -> LoadedModel:
    """Loads the model at ``uri``.

    Args:
        uri: of the model; ``ngram://`` has none.
        target: of a built-in drafter, whose embedding it uses.
        dtype: "auto" is the fastest that the device multiplies itself.
        device: "auto" is CUDA when there is one.
        cache: folder for what is fetched or converted.
        report: told of progress.

    Raises:
        ModelNotFoundError: there is no such model, or a built-in drafter lacks its target.
        ValueError: no such device, or files that are no safetensors or no list of ids.
    """
    place = choose_device(device)
    kind: torch.dtype = getattr(torch, choose_dtype(dtype, place.type))
    if uri.scheme is Scheme.NGRAM:
        raise ModelNotFoundError(f"{uri} is prompt lookup: it has no weights to load")
    if uri.scheme is Scheme.BUILTIN:
        if target is None:
            raise ModelNotFoundError(f"{uri} uses its target's embedding: name the target")
        path = builtin_file(uri)
        folder = resolve(target, cache=cache, report=report).path
        module = load_drafter(path, folder, dtype=kind, device=place)
        shipped = read_proposals(PROPOSALS, module.config.vocab_size)
        integers = drafter_integers(path, folder) if place.type == "cpu" else {}
        return LoadedModel(uri, module, fingerprint_of([path]), kind, place, shipped, integers)

    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = resolve(uri, cache=cache, report=report).path
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelNotFoundError(
            f"{uri}: {folder} holds no .safetensors file; pickled weights are not loaded"
        )
    report("loading weights", 0, 0)
    module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    module = module.to(place).eval().requires_grad_(requires_grad=False)
    listed = folder / "proposals.npy"
    proposals = read_proposals(listed, module.config.vocab_size) if listed.is_file() else None
    stored = folder / FILE
    integers = read_integers(stored) if stored.is_file() else {}
    if kind == torch.float32:
        _widen(module, integers)
    if place.type != "cpu":
        integers = {}
    return LoadedModel(uri, module, fingerprint_of(weights), kind, place, proposals, integers)


@torch.no_grad()
def _widen(module: Any, integers: Mapping[str, Integers]) -> None:
    """Gives a float32 model the weights that its file stores, which bfloat16 would have rounded."""
    weights = dict(module.named_parameters())
    for name, matrix in integers.items():
        if name in weights:
            weights[name].copy_(torch.from_numpy(matrix.weights()))
