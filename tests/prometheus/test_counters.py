"""What Prometheus counts is what clients got; a drafter that goes away takes its series with it."""

import pytest
from server import Prometheus, eventually

from processes import Fleet as Processes

pytestmark = pytest.mark.processes

DECODE = "goodspeed_spec_decode"


def test_counters_equal_the_tokens_that_clients_received(folder, tmp_path):
    own = Processes(folder, tmp_path)
    prometheus = Prometheus(tmp_path / "prometheus")
    try:
        verifier = own.verifier(max_sequences=8)
        names = {"model": own.uri("target"), "lookup": "ngram://"}
        drafters = {name: own.drafter(name, model, verifier) for name, model in names.items()}
        own.wait()
        prometheus.scrape([verifier.url, *(drafter.url for drafter in drafters.values())])
        prometheus.start()
        received = {}
        for name, drafter in drafters.items():
            answers = [drafter.complete(max_tokens=30 + index, ignore_eos=True) for index in range(4)]
            received[name] = sum(answer.json()["usage"]["completion_tokens"] for answer in answers)

        def counted(metric, name):
            return prometheus.values(f'sum({metric}{{drafter="{name}"}}) or vector(0)')

        for name, tokens in received.items():
            assert tokens == 30 + 31 + 32 + 33
            wanted = {
                f"{DECODE}_emitted_tokens_total": [tokens],
                "goodspeed_request_completion_tokens_total": [tokens],
                "goodspeed_request_total": [4],
                f"{DECODE}_first_tokens_total": [4],
            }
            # Verifier and drafter are scraped at different moments.
            eventually(lambda name=name, wanted=wanted: {m: counted(m, name) for m in wanted} == wanted)
            assert counted(f"{DECODE}_accepted_tokens_per_pos_total", name) == counted(
                f"{DECODE}_accepted_tokens_total", name
            )
        own["model"].kill()
        eventually(lambda: prometheus.query('{drafter="model"}') == [], 60)
        assert prometheus.query('{drafter="lookup"}')
    finally:
        prometheus.stop()
        own.stop()
