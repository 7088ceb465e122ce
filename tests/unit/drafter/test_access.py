"""Who asks: by a key, by a header where there are no keys, and nobody by guessing."""

import logging

import pytest
from starlette.datastructures import Headers

from goodspeed_runtime.drafter.access import REREAD_SECONDS, Access, Keys
from goodspeed_runtime.drafter.answer import AnswerError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files(tmp_path):
    found = {"gold": tmp_path / "gold", "silver": tmp_path / "silver"}
    found["gold"].write_text("key-of-gold\n")
    found["silver"].write_bytes(b"  key-of-silver \n\nschl\xc3\xbcssel\n")
    return found


def tenant(access, *headers):
    return access.tenant(Headers(raw=[(name.encode(), value) for name, value in headers]))


def bearer(key):
    return ("authorization", b"Bearer " + key)


def refusal(access, *headers):
    with pytest.raises(AnswerError) as raised:
        tenant(access, *headers)
    return raised.value.status, raised.value.code


def test_a_key_names_its_tenant_and_so_does_a_second_one_of_the_same_file(files, clock):
    access = Access(files, Keys(files, clock))
    assert tenant(access, bearer(b"key-of-gold")) == "gold"
    assert tenant(access, bearer(b"key-of-silver")) == "silver"
    assert tenant(access, bearer("schlüssel".encode())) == "silver"
    assert tenant(access, ("authorization", b"bEARER   key-of-gold ")) == "gold"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-goodspeed-tenant", b"gold")],
        [bearer(b"")],
        [bearer(b"key-of-gol")],
        [bearer(b"key-of-gold2")],
        [bearer(b"gold")],
        [("authorization", b"Basic key-of-gold")],
        [("authorization", b"key-of-gold")],
        [bearer(b"\xff\xfe")],
    ],
)
def test_with_keys_nobody_comes_in_without_one(files, clock, headers):
    assert refusal(Access(files, Keys(files, clock)), *headers) == (401, "invalid_api_key")


def test_a_header_cannot_make_a_key_anothers(files, clock):
    access = Access(files, Keys(files, clock))
    assert tenant(access, bearer(b"key-of-gold"), ("x-goodspeed-tenant", b"gold")) == "gold"
    named = ("x-goodspeed-tenant", b"silver")
    assert refusal(access, bearer(b"key-of-gold"), named) == (403, "tenant_mismatch")


def test_without_keys_the_header_is_believed_if_it_names_a_tenant():
    access = Access(["gold", "silver"])
    assert tenant(access, ("x-goodspeed-tenant", b"silver")) == "silver"
    assert tenant(access) == ""
    assert tenant(access, bearer(b"anything")) == ""
    assert refusal(access, ("x-goodspeed-tenant", b"iron")) == (403, "unknown_tenant")
    assert refusal(Access(), ("x-goodspeed-tenant", b"gold")) == (403, "unknown_tenant")


def test_a_clients_own_header_does_not_win_over_the_gateways():
    twice = [("x-goodspeed-tenant", b"gold"), ("x-goodspeed-tenant", b"silver")]
    assert refusal(Access(["gold", "silver"]), *twice) == (403, "unknown_tenant")


def test_a_changed_file_counts_without_a_restart_and_the_old_key_no_longer(files, clock):
    access = Access(files, Keys(files, clock))
    files["gold"].write_text("new-key\n")
    assert tenant(access, bearer(b"key-of-gold")) == "gold"
    clock.now = REREAD_SECONDS
    assert refusal(access, bearer(b"key-of-gold")) == (401, "invalid_api_key")
    assert tenant(access, bearer(b"new-key")) == "gold"


def test_a_file_that_is_lost_shuts_its_tenant_out_and_nobody_else(files, clock, caplog):
    access = Access(files, Keys(files, clock))
    files["gold"].unlink()
    with caplog.at_level(logging.WARNING):
        for clock.now in (REREAD_SECONDS, 2 * REREAD_SECONDS):
            assert refusal(access, bearer(b"key-of-gold")) == (401, "invalid_api_key")
            assert tenant(access, bearer(b"key-of-silver")) == "silver"
    assert len(caplog.records) == 1
    assert "tenant gold" in caplog.text


def test_a_key_that_two_tenants_share_opens_nothing_and_no_trouble_quotes_a_key(files, clock):
    keys = Keys(files, clock)
    files["silver"].write_text("key-of-gold\nother-key\n")
    clock.now = REREAD_SECONDS
    assert keys.tenant(b"key-of-gold") is None
    assert keys.tenant(b"other-key") == "silver"
    with pytest.raises(ValueError, match="tenants gold, silver: have a key in common") as raised:
        Keys(files, clock)
    assert "key-of-gold" not in str(raised.value)


@pytest.mark.parametrize("content", [None, "", " \n\n"])
def test_a_drafter_does_not_begin_with_a_tenant_that_has_no_key(files, content):
    if content is None:
        files["gold"].unlink()
    else:
        files["gold"].write_text(content)
    with pytest.raises(ValueError, match="tenant gold: no keys in"):
        Keys(files)
