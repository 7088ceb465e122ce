"""Drafters in int8: every weight within half a step of its row, and the layers that we ship load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open

import tiny_model
from goodspeed_runtime.models.builtin import DATA, builtin_file, load_drafter
from goodspeed_runtime.models.quantise import SCALE_SUFFIX, dequantise, quantise
from goodspeed_runtime.models.uri import ModelNotFoundError, ModelURI

matrices = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-4, 4, width=32)
)


@given(matrices)
def test_no_weight_moves_by_more_than_half_a_step_of_its_row(weight: np.ndarray) -> None:
    kept = quantise({"w": weight})
    scale = kept["w" + SCALE_SUFFIX].astype(np.float32)[:, None]
    assert kept["w"].dtype == np.int8
    assert (np.abs(dequantise(kept)["w"] - weight) <= scale / 2 * 1.001).all()


def test_vectors_stay_floating() -> None:
    kept = quantise({"norm": np.ones(3, np.float32)})
    assert kept["norm"].dtype == np.float16
    assert list(kept) == ["norm"]


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_drafter_that_ships_has_the_layers_of_its_name(layers: int) -> None:
    with safe_open(builtin_file(ModelURI.parse(f"builtin://smollm2-135m-draft-{layers}l")), "np") as file:
        blocks = {name.split(".")[2] for name in file.keys() if name.startswith("model.layers.")}  # noqa: SIM118
        kinds = {file.get_slice(name).get_dtype() for name in file.keys() if name.endswith("proj.weight")}  # noqa: SIM118
    assert len(blocks) == layers
    assert kinds == {"I8"}


def test_an_unknown_drafter_is_answered_with_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match="draft-1l, builtin://smollm2-135m-draft-2l"):
        builtin_file(ModelURI.parse("builtin://smollm3"))


def test_a_drafter_of_another_target_is_refused_with_both_shapes(tmp_path: Path) -> None:
    target = tiny_model.make(tmp_path / "target")
    with pytest.raises(ModelNotFoundError, match="embedding of 49152 x 576, the target's is 257 x 32"):
        load_drafter(
            DATA / "smollm2-135m-draft-1l.safetensors",
            target,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
