"""Keys and headers of tenants, asked of real processes with OpenAI's own client."""

import openai
import pytest

from processes import eventually

pytestmark = pytest.mark.processes

KEY = "sk-gold-5d1f"
EMITTED = "goodspeed_tenant_emitted_tokens_total"
ASKED = {"model": "target", "prompt": "hello", "max_tokens": 12, "extra_body": {"ignore_eos": True}}


def client(server, key, **headers):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=key, max_retries=0, default_headers=headers
    ).completions


@pytest.fixture
def cell(own):
    return own.verifier(tenants="gold=2,silver=1")


@pytest.fixture
def keyed(own, cell, tmp_path):
    (tmp_path / "gold").write_text(f"{KEY}\n")
    (tmp_path / "silver").write_text("sk-silver\n")
    keys = ",".join(f"{name}={tmp_path / name}" for name in ("gold", "silver"))
    drafter = own.drafter("keyed", "ngram://", cell, tenants="gold,silver", tenant_keys=keys)
    own.wait()
    return drafter


def test_a_key_is_asked_for_and_says_whose_tokens_these_are(keyed, cell, tmp_path):
    client(keyed, KEY).create(**ASKED)
    client(keyed, KEY, **{"X-Goodspeed-Tenant": "gold"}).create(**ASKED)
    assert list(client(keyed, "sk-silver").create(**ASKED, stream=True))
    eventually(lambda: cell.metric(EMITTED, tenant="silver") == 12)
    assert cell.metric(EMITTED, tenant="gold") == 24
    assert cell.metric("goodspeed_tenant_weight", tenant="gold") == 2

    with pytest.raises(openai.AuthenticationError) as raised:
        client(keyed, "sk-wrong").create(**ASKED)
    assert (raised.value.code, raised.value.type) == ("invalid_api_key", "invalid_request_error")
    assert raised.value.response.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.PermissionDeniedError) as raised:
        client(keyed, KEY, **{"X-Goodspeed-Tenant": "silver"}).create(**ASKED)
    assert raised.value.code == "tenant_mismatch"

    for path in ("/v1/models", "/v1/models/target"):
        assert keyed.get(path).status_code == 401
    # A body that nobody may send is not looked at.
    assert keyed.post("/v1/completions", nonsense=True).status_code == 401
    assert all(keyed.get(path).status_code == 200 for path in ("/healthz", "/readyz", "/metrics"))
    assert keyed.metric("goodspeed_request_total", code="401") == 4
    assert keyed.metric("goodspeed_request_total", code="403") == 1

    (tmp_path / "gold").write_text("sk-changed\n")

    def changed():
        try:
            return client(keyed, "sk-changed").create(**ASKED)
        except openai.AuthenticationError:
            return None

    eventually(changed, 20)
    with pytest.raises(openai.AuthenticationError):
        client(keyed, KEY).create(**ASKED)
    assert not any(word in keyed.log() for word in (KEY, "sk-wrong", "sk-silver", "sk-changed"))


def test_without_keys_a_gateways_header_says_whose_tokens_these_are(own, cell):
    drafter = own.drafter("named", "ngram://", cell, tenants="gold,silver")
    own.wait()
    client(drafter, "none", **{"X-Goodspeed-Tenant": "silver"}).create(**ASKED)
    client(drafter, "none").create(**ASKED)
    eventually(lambda: cell.metric(EMITTED, tenant="silver") == 12)
    assert cell.metric(EMITTED) == 12
    with pytest.raises(openai.PermissionDeniedError) as raised:
        client(drafter, "none", **{"X-Goodspeed-Tenant": "iron"}).create(**ASKED)
    assert raised.value.code == "unknown_tenant"


def test_a_drafter_without_a_tenants_key_ends_and_says_which(own, cell, tmp_path):
    drafter = own.drafter(
        "lost", "ngram://", cell, tenants="gold", tenant_keys=f"gold={tmp_path / 'nothing'}"
    )
    assert drafter.process.wait(60) == 1
    assert "tenant gold: no keys in" in drafter.log()
