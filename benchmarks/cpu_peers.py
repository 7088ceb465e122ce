"""What else decodes a small model on a CPU; each way runs alone in a process of its own.

    python benchmarks/cpu_peers.py WAY --work FILE

FILE holds prompts as token ids, how many are under way at once, the longest answer and how many threads to
use (`Work`). Prints one line of JSON: seconds, tokens and seconds between tokens where the way tells. Ways
whose package is not installed say so: pip install xllamacpp ctranslate2 openvino-genai.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from goodspeed_runtime.models.folder import silent
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.package import gguf_of
from goodspeed_runtime.models.resolve import resolve
from goodspeed_runtime.models.uri import ModelURI
from work import Answer, Work

ASSISTANT = ModelURI.parse("builtin://smollm2-135m-draft-4l")


Count = Callable[[], int]
"""Does all the work once and says how many tokens came."""


def _module(uri: ModelURI, work: Work) -> Any:
    import torch

    torch.set_num_threads(work.threads)
    return load_model(uri, target=ModelURI.parse(work.model), device="cpu").module


def _batches(work: Work, size: int) -> Iterator[list[list[int]]]:
    for first in range(0, len(work.prompts), size):
        yield work.prompts[first : first + size]


def _generating(work: Work, size: int, **options: Any) -> Count:
    import transformers_ways

    module = _module(ModelURI.parse(work.model), work)
    return lambda: _count(transformers_ways.generate(module, work, size, **options))


def _count(answers: Sequence[Answer]) -> int:
    return sum(len(answer.tokens) for answer in answers)


def generate(work: Work) -> Count:
    """Transformers' generate over as many prompts at once as are under way."""
    return _generating(work, work.at_once)


def assisted(work: Work) -> Count:
    """Transformers' assisted generation, one prompt after the other: it takes no more."""
    return _generating(work, 1, assistant_model=_module(ASSISTANT, work))


def lookup(work: Work) -> Count:
    """Transformers' prompt lookup, one prompt after the other: it takes no more."""
    return _generating(work, 1, prompt_lookup_num_tokens=4)


def continuous(work: Work) -> Count:
    """Transformers' continuous batching."""
    import transformers_ways

    module = _module(ModelURI.parse(work.model), work)

    def run() -> int:
        with transformers_ways.continuous(module, work) as answer:
            return _count(answer(work))

    return run


def _llama(work: Work, file: Path) -> Count:
    import httpx
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path = str(file)
    options.n_parallel, options.n_ctx = work.at_once, 2048 * work.at_once
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = work.threads
    options.cache_prompt, options.port, options.verbosity = False, 0, 0
    server = xllamacpp.Server(options)

    def ask(prompt: Sequence[int]) -> int:
        body = {"prompt": list(prompt), "n_predict": work.max_tokens, "temperature": 0, "cache_prompt": False}
        answer = httpx.post(f"{server.listening_address}/completion", json=body, timeout=600).json()
        return int(answer["tokens_predicted"])

    def run() -> int:
        with ThreadPoolExecutor(work.at_once) as pool:
            return sum(pool.map(ask, work.prompts))

    return run


def llama_q4(work: Work) -> Count:
    """llama.cpp on the GGUF as it comes, Q4_1."""
    with gguf_of(ModelURI.parse(work.model).path, silent) as file:
        return _llama(work, file)


def llama_bf16(work: Work) -> Count:
    """llama.cpp on the same weights in bfloat16, which is what every other way computes with."""
    target = Path(tempfile.mkdtemp()) / "bf16.gguf"
    with gguf_of(ModelURI.parse(work.model).path, silent) as file:
        _widen(file, target, "BF16")
    return _llama(work, target)


def _widen(source: Path, target: Path, name: str) -> None:
    """Writes a GGUF anew, its quantised matrices in 16 bits: BF16 or F16."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, arch=reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{name}"])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        width = gguf.GGMLQuantizationType[name if values.ndim > 1 else "F32"]
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, width), raw_dtype=width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ctranslate(work: Work) -> Count:
    """CTranslate2 with int8 matrices, the smallest that it has."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    source = resolve(ModelURI.parse(work.model)).path
    target = Path(tempfile.mkdtemp()) / "model"
    TransformersConverter(str(source)).convert(str(target), quantization="int8")
    generator = ctranslate2.Generator(str(target), inter_threads=1, intra_threads=work.threads)
    vocabulary = json.loads((target / "vocabulary.json").read_text())

    def run() -> int:
        tokens = 0
        for batch in _batches(work, work.at_once):
            results = generator.generate_batch(
                [[vocabulary[token] for token in prompt] for prompt in batch],
                max_length=work.max_tokens,
                include_prompt_in_result=False,
                sampling_topk=1,
                end_token=[vocabulary[work.stop_token]],
            )
            tokens += sum(len(result.sequences[0]) for result in results)
        return tokens

    return run


def openvino_q4(work: Work) -> Count:
    """openvino-genai on the GGUF as it comes, Q4_1."""
    return _openvino(work, widened=False)


def openvino_f16(work: Work) -> Count:
    """openvino-genai on the same weights in float16: it reads no bfloat16."""
    return _openvino(work, widened=True)


def _openvino(work: Work, *, widened: bool) -> Count:
    import openvino
    import openvino_genai

    with gguf_of(ModelURI.parse(work.model).path, silent) as file:
        source = file
        if widened:
            source = Path(tempfile.mkdtemp()) / "bf16.gguf"
            _widen(file, source, "F16")
        pipeline = openvino_genai.LLMPipeline(str(source), "CPU", INFERENCE_NUM_THREADS=work.threads)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.eos_token_id, config.do_sample = work.max_tokens, work.stop_token, False

    def run() -> int:
        tokens = 0
        for batch in _batches(work, work.at_once):
            width = max(map(len, batch))
            ids = [[work.stop_token] * (width - len(p)) + p for p in batch]
            mask = [[0] * (width - len(p)) + [1] * len(p) for p in batch]
            inputs = openvino_genai.TokenizedInputs(
                openvino.Tensor(np.array(ids)), openvino.Tensor(np.array(mask))
            )
            found = pipeline.generate(inputs, config)
            tokens += sum(len(answer) for answer in found.tokens)
        return tokens

    return run


WAYS: dict[str, Callable[[Work], Count]] = {
    "generate": generate,
    "assisted": assisted,
    "lookup": lookup,
    "continuous": continuous,
    "llama-q4_1": llama_q4,
    "llama-bf16": llama_bf16,
    "ctranslate-int8": ctranslate,
    "openvino-q4_1": openvino_q4,
    "openvino-f16": openvino_f16,
}


def main() -> None:
    """Runs a way once to warm up and then for the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--work", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    work = Work(**json.loads(options.work.read_text()))
    try:
        run = WAYS[options.way](work)
    except ImportError as error:
        parser.exit(3, f"cpu_peers: {error.name} is not installed\n")
    run()
    start = time.perf_counter()
    tokens = run()
    json.dump({"seconds": time.perf_counter() - start, "tokens": tokens}, sys.stdout)


if __name__ == "__main__":
    main()
