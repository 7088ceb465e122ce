"""A GGUF file becomes the very model that it was made from; what the converter does not know it refuses."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from goodspeed_runtime.models.gguf import UnsupportedGGUFError, convert
from goodspeed_runtime.models.tokenizer import Tokenizer

HIDDEN, HEADS, KV_HEADS, LAYERS, INNER = 32, 4, 2, 2, 64
LETTERS = ["<|im_end|>", *map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "ab", "Ġa"]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def original() -> LlamaForCausalLM:
    """A random Llama whose weights bfloat16 holds exactly."""
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(LETTERS),
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            initializer_range=0.3,
            tie_word_embeddings=True,
            rope_parameters={"rope_theta": 1234.0, "rope_type": "default"},
        )
    )
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()
    return model.eval()


def in_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k in GGUF's order, where the two numbers that rotate together are neighbours."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(weight.shape)


def write(path: Path, model: LlamaForCausalLM, **changed: Any) -> Path:
    facts = {
        "architecture": "llama",
        "pre": "smollm",
        "tensor": "blk.0.attn_norm.weight",
        "lacks": "",
    } | changed
    writer = gguf.GGUFWriter(path, facts["architecture"])
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    if facts["lacks"] != "llama.rope.freq_base":
        writer.add_rope_freq_base(1234.0)
    writer.add_vocab_size(len(LETTERS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(facts["pre"])
    writer.add_token_list(LETTERS)
    writer.add_token_types([3, *[1] * (len(LETTERS) - 1)])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        if name == "lm_head.weight":
            continue
        part, _, layer = name.removesuffix(".weight").removeprefix("model.").partition("layers.")
        block, _, inner = layer.partition(".")
        if inner in {"self_attn.q_proj", "self_attn.k_proj"}:
            weight = in_pairs(weight, HEADS if inner.endswith("q_proj") else KV_HEADS)
        called = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}.get(part)
        called = called or f"blk.{block}.{NAMES[inner]}.weight"
        writer.add_tensor(facts["tensor"] if called == "blk.0.attn_norm.weight" else called, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_converted_model_computes_what_the_original_does(tmp_path: Path) -> None:
    model = original()
    convert(write(tmp_path / "model.gguf", model), tmp_path)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        torch.testing.assert_close(converted(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)


def test_the_tokenizer_is_rebuilt_from_vocabulary_and_merges(tmp_path: Path) -> None:
    convert(write(tmp_path / "model.gguf", original()), tmp_path)
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode("cab a<|im_end|>")
    assert [LETTERS[token] for token in ids] == ["c", "ab", "Ġa", "<|im_end|>"]
    assert tokenizer.decode(ids) == "cab a"
    assert tokenizer.stop_tokens == (0,)
    assert tokenizer.render_chat([{"role": "user", "content": "ab"}]) == [LETTERS.index("ab")]


def test_progress_is_told_tensor_by_tensor(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    convert(write(tmp_path / "model.gguf", original()), tmp_path, lambda *progress: told.append(progress))
    tensors = 2 + 9 * LAYERS
    assert told == [("converting weights", done, tensors) for done in range(tensors + 1)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"architecture": "mamba"}, "architecture 'mamba' is not llama"),
        ({"pre": "qwen2"}, "tokenizer 'qwen2' is not smollm"),
        ({"tensor": "blk.0.attn_q.bias"}, r"tensor 'blk\.0\.attn_q\.bias' is none of a plain Llama's"),
        ({"lacks": "llama.rope.freq_base"}, r"lacks llama\.rope\.freq_base"),
    ],
)
def test_what_the_converter_does_not_know_it_refuses(
    tmp_path: Path, changed: dict[str, str], why: str
) -> None:
    with pytest.raises(UnsupportedGGUFError, match=why):
        convert(write(tmp_path / "model.gguf", original(), **changed), tmp_path)
