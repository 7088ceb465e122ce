"""What the end-to-end benchmarks share, and a run of the GPU's on this machine's CPU."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.protocol.wire import DraftBlock

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from synthetic_verifier import Coin  # noqa: E402
from work import Answer, Figures, Work  # noqa: E402

VOCABULARY = 32


def requests(lengths):
    rng = np.random.default_rng(0)
    drafts = [DraftBlock.point_masses(rng.integers(0, VOCABULARY, n).tolist()) for n in lengths]
    return [Request(10, draft, Sampling(0.0)) for draft in drafts]


def judged(coin, lengths):
    torch.manual_seed(0)
    return coin(torch.randn(sum(lengths) + len(lengths), VOCABULARY), requests(lengths))


def test_a_coin_lets_a_drafted_token_stand_as_often_as_it_was_told():
    coin = Coin(verify, 0.8)
    lengths = [1] * 2000
    assert judged(coin, lengths).accepted.mean() == pytest.approx(0.8, abs=0.03)


def test_behind_a_token_that_fell_none_stands():
    found = judged(Coin(verify, 0.8), [4] * 2000)
    # 0.8 + 0.8² + 0.8³ + 0.8⁴
    assert found.accepted.mean() == pytest.approx(2.3616, abs=0.1)
    assert found.soft_ratios.mean() == pytest.approx(3.2, abs=0.1)
    assert (found.accepted <= found.soft_ratios).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.floats(0, 1))
def test_a_coin_accepts_no_more_than_was_drafted_and_keeps_the_tests_own_next_tokens(lengths, acceptance):
    found, real = judged(Coin(verify, acceptance), lengths), judged(verify, lengths)
    assert (found.accepted <= lengths).all()
    assert (found.next_tokens == real.next_tokens).all()


def test_a_certain_coin_accepts_everything_and_an_impossible_one_nothing():
    assert judged(Coin(verify, 1.0), [3, 0, 5]).accepted.tolist() == [3, 0, 5]
    assert judged(Coin(verify, 0.0), [3, 0, 5]).accepted.tolist() == [0, 0, 0]


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 4)), min_size=1, max_size=20))
def test_the_waits_of_an_answer_add_up_to_all_of_it(steps):
    waits, counts = zip(*steps, strict=True)
    times, there = np.cumsum(waits).tolist(), np.cumsum(counts).tolist()
    answer = Answer.timed(range(there[-1]), 0.0, list(zip(times, there, strict=True)))
    assert len(answer.gaps) == max(0, there[-1] - 1)
    if there[-1]:
        last = next(time for time, count in zip(times, there, strict=True) if count == there[-1])
        assert answer.first + sum(answer.gaps) == pytest.approx(last, abs=1e-9)


def test_tokens_after_the_end_of_an_answer_count_for_nothing():
    answer = Answer.timed([7, 8], 1.0, [(2.0, 1), (3.0, 2), (4.0, 3), (9.0, 4)])
    assert (answer.first, answer.gaps) == (1.0, [1.0])


def test_figures_are_of_all_users_together():
    answers = [Answer([1, 2, 3], 0.5, [0.1, 0.1]), Answer([1], 0.7)]
    figures = Figures.of(answers, 2.0)
    assert (figures.requests, figures.tokens, figures.tokens_per_second) == (2, 4, 2.0)
    assert figures.first_token_ms == pytest.approx(600)
    assert figures.p95_inter_token_ms == pytest.approx(100)


def test_answers_of_one_token_have_no_time_between_tokens():
    assert math.isnan(Figures.of([Answer([1], 0.7)], 1.0).inter_token_ms)


def test_a_warm_up_is_shorter_and_of_other_prompts():
    warm_up = Work("tiny", [[1], [2]], 2, 64, None).warm_up([[3], [4], [5]])
    assert (warm_up.prompts, warm_up.max_tokens, warm_up.at_once) == ([[3], [4]], 16, 2)


@pytest.mark.slow
@pytest.mark.processes
def test_it_runs_without_a_gpu(tmp_path):
    file = tmp_path / "found.json"
    arms = ["goodspeed-elsewhere", "plain", "generate", "continuous"]
    command = [sys.executable, str(BENCHMARKS / "gpu_end_to_end.py"), "--device=cpu", "--workload=8b"]
    command += ["--shape=tiny", "--concurrency=1,2", "--tokens=12", "--prompt-tokens=16"]
    subprocess.run([*command, f"--arms={','.join(arms)}", f"--json={file}"], check=True, timeout=250)
    found = json.loads(file.read_text())
    assert found["missing"] == {}
    assert found["synthetic_acceptance"] == 0.8
    assert [(row["arm"], row["at_once"]) for row in found["rows"]] == [(a, n) for a in arms for n in (1, 2)]
    assert all(row["tokens"] == 8 * 12 for row in found["rows"])


def test_it_says_which_arms_there_are():
    command = [sys.executable, str(BENCHMARKS / "gpu_end_to_end.py"), "--device=cpu", "--arms=nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "goodspeed-fleet" in done.stderr
