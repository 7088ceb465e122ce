"""A model's fingerprint tells weights apart, wherever they lie and however they are ordered."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from goodspeed_runtime.models.fingerprint import fingerprint_of


def weights(folder: Path, **tensors: torch.Tensor) -> list[Path]:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return [folder / "model.safetensors"]


def test_the_same_weights_have_the_same_fingerprint_in_any_place_and_order(tmp_path: Path) -> None:
    one, two = torch.randn(3, 4), torch.randn(5)
    first = fingerprint_of(weights(tmp_path / "a", one=one, two=two))
    assert first == fingerprint_of(weights(tmp_path / "b", two=two, one=one))
    assert len(first) == 32


@pytest.mark.parametrize(
    "other",
    [
        {"one": torch.ones(4, 3)},
        {"two": torch.ones(3, 4)},
        {"one": torch.ones(3, 4, dtype=torch.float16)},
        {"one": torch.ones(3, 4).index_fill(0, torch.tensor([2]), 2.0)},
    ],
    ids=["shape", "name", "type", "content"],
)
def test_another_shape_name_type_or_content_is_another_fingerprint(
    tmp_path: Path, other: dict[str, torch.Tensor]
) -> None:
    first = fingerprint_of(weights(tmp_path / "a", one=torch.ones(3, 4)))
    assert first != fingerprint_of(weights(tmp_path / "b", **other))


def test_a_fine_tune_of_large_tensors_is_told_apart(tmp_path: Path) -> None:
    base = torch.randn(512, 512)
    tuned = base + 1e-3 * torch.randn(512, 512)
    assert fingerprint_of(weights(tmp_path / "a", w=base)) != fingerprint_of(weights(tmp_path / "b", w=tuned))


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a tensor in sight")
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        fingerprint_of([path])
