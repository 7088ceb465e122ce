"""The type that a model runs in when nobody says."""

from pathlib import Path

import pytest

from goodspeed_runtime.models.dtype import choose_dtype, cpu_dtype, cpu_flags


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"avx2"}, "float32"),
        ({"avx512f", "avx512_vnni"}, "float32"),
        ({"avx2", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16"}, "bfloat16"),
        (set(), "float32"),
    ],
)
def test_bfloat16_where_the_processor_multiplies_it(flags: set[str], chosen: str) -> None:
    assert cpu_dtype(flags) == chosen


def test_flags_are_read_where_the_kernel_tells(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(told) == {"fpu", "avx2", "amx_bf16"}
    assert cpu_flags(tmp_path / "none") == set()


def test_a_type_that_somebody_names_is_taken() -> None:
    assert choose_dtype("float16", "cpu") == "float16"
    assert choose_dtype("auto", "cuda:0") == "bfloat16"
