"""What a server loads is what its settings and its place say."""

import pytest
import torch

from goodspeed_runtime.decoding import packed
from goodspeed_runtime.decoding.int8 import Int8Matrix, rounded_linears
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.tiles import TILE_ROWS, tiles
from goodspeed_runtime.drafter import serving as drafter
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.process import Place
from goodspeed_runtime.verifier import serving as verifier
from goodspeed_runtime.verifier.settings import VerifierSettings
from tiny_model import make

PROMPT = list(range(60, 90))


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return ModelURI.parse(f"file://{make(tmp_path_factory.mktemp('model') / 'target')}")


def place(**options):
    return Place(
        **{"dtype": "float32", "weights": "model", "device": "cpu", "threads": 0, "cache": None}
        | {"address": "127.0.0.1", "http_port": 0, "drain_seconds": 0}
        | options
    )


def cell(uri, weights="model", **settings):
    settings = VerifierSettings(name="cell", max_context_tokens=64, max_sequences=2, **settings)
    return verifier._load(settings, uri, place(weights=weights))


def logits(model):
    return model.forward([Segment(model.acquire(), 0, PROMPT, len(PROMPT))]).clone()


@torch.inference_mode()
def test_a_verifier_told_to_round_serves_the_rounded_target_and_says_that_it_is_another(uri):
    model, target = cell(uri, "int8")
    whole, as_it_is = cell(uri)
    plain = load_model(uri, dtype="float32", device="cpu").module
    for linear in rounded_linears(plain):
        linear.weight.copy_(Int8Matrix.of(linear.weight).dequantised())
    expected, found = plain(torch.tensor([PROMPT])).logits[0], logits(model)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert float((logits(whole) - expected).norm()) > 20 * float((found - expected).norm())
    assert target.model_fingerprint != as_it_is.model_fingerprint
    assert target.tokenizer_fingerprint == as_it_is.tokenizer_fingerprint


@pytest.mark.parametrize("invariant", [False, True])
def test_a_verifier_told_to_be_batch_invariant_cuts_its_passes(uri, monkeypatch, invariant):
    def cut(segments, rows):
        sizes.append(rows)
        return tiles(segments, rows)

    sizes = []
    monkeypatch.setattr(packed, "tiles", cut)
    logits(cell(uri, batch_invariant=invariant)[0])
    assert set(sizes) == ({TILE_ROWS} if invariant else set())


@pytest.mark.parametrize(("most", "drafted"), [(29, 0), (32, 3), (64, 4)])
def test_a_drafter_drafts_for_sequences_as_long_as_it_is_told(uri, most, drafted):
    settings = DrafterSettings("d", "p", "c", str(uri), str(uri), (), "m", max_context_tokens=most)
    engine, _ = drafter._load(settings, uri, uri, place())
    (draft,) = engine.draft([Job(1, PROMPT, 4, Sampling(0.0))])
    assert len(draft.block) == drafted
