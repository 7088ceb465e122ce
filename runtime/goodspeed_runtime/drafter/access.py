"""Who asks: from a request's headers to a tenant, or to a refusal.

With keys, the key alone says who asks. Without, the header is believed, since
whoever lets requests through to here has asked for credentials already.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from starlette.datastructures import Headers

from goodspeed_runtime.drafter.answer import AnswerError

logger = logging.getLogger(__name__)

TENANT_HEADER = "x-goodspeed-tenant"
REREAD_SECONDS = 5.0
_MOST_KEY_BYTES = 64 << 10
_NO_KEY = "send this tenant's key: Authorization: Bearer <key>"


class Keys:
    """Keys of tenants, each a line of its tenant's file, read again while they are in use.

    A file has several lines while a key is being changed. One that cannot be
    read, or shares a key with another, opens nothing: what cannot be told stays
    shut. Only digests are kept.
    """

    def __init__(self, files: Mapping[str, Path], clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the files.

        Raises:
            ValueError: a file has no keys or another's; the message names the tenant and never a key.
        """
        self._files = files
        self._clock = clock
        self._digests, self._troubles = _read(files)
        self._read_at = clock()
        if self._troubles:
            raise ValueError("; ".join(self._troubles))

    def tenant(self, key: bytes) -> str | None:
        """Whose key it is, or None; takes as long whichever it is."""
        if self._clock() - self._read_at >= REREAD_SECONDS:
            self._reread()
        given, found = hashlib.sha256(key).digest(), None
        for digest, name in self._digests:
            if hmac.compare_digest(digest, given):
                found = name
        return found

    def _reread(self) -> None:
        before = self._troubles
        self._digests, self._troubles = _read(self._files)
        self._read_at = self._clock()
        for trouble in self._troubles:
            if trouble not in before:
                logger.warning("%s; its requests are refused meanwhile", trouble)


def _read(files: Mapping[str, Path]) -> tuple[list[tuple[bytes, str]], list[str]]:
    """Digests with their tenants, and what is wrong with files."""
    owners: dict[bytes, set[str]] = {}
    troubles = []
    for name, path in files.items():
        try:
            with path.open("rb") as file:
                lines = [line.strip() for line in file.read(_MOST_KEY_BYTES).splitlines()]
        except OSError as error:
            troubles.append(f"tenant {name}: no keys in {path}: {(error.strerror or str(error)).lower()}")
            continue
        keys = [line for line in lines if line]
        if not keys:
            troubles.append(f"tenant {name}: no keys in {path}: give one a line")
        for key in keys:
            owners.setdefault(hashlib.sha256(key).digest(), set()).add(name)
    common = {tuple(sorted(names)) for names in owners.values() if len(names) > 1}
    troubles += [f"tenants {', '.join(names)}: have a key in common; give each its own" for names in common]
    return [(digest, min(names)) for digest, names in owners.items() if len(names) == 1], troubles


class Access:
    """Lets requests in, each with its tenant."""

    def __init__(self, tenants: Sequence[str] = (), keys: Keys | None = None) -> None:
        self._tenants = frozenset(tenants)
        self._keys = keys

    def tenant(self, headers: Headers) -> str:
        """The tenant of a request, or empty for the drafter's own account.

        Raises:
            AnswerError: 401 without a key or with a wrong one, 403 where the header names whom it may not.
        """
        values = headers.getlist(TENANT_HEADER)
        if len(values) > 1:
            # A gateway that adds its header to a client's own must not leave the choice to us.
            raise AnswerError(
                403, "unknown_tenant", f"{TENANT_HEADER}: stands there {len(values)} times; send one"
            )
        named = values[0] if values else ""
        if self._keys is None:
            if named and named not in self._tenants:
                raise AnswerError(
                    403, "unknown_tenant", f"{TENANT_HEADER}: no tenant of that name is served here"
                )
            return named
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise AnswerError(401, "invalid_api_key", f"no key came with the request; {_NO_KEY}")
        owner = self._keys.tenant(key.strip().encode("latin-1", "replace"))
        if owner is None:
            raise AnswerError(401, "invalid_api_key", f"the key is not known here; {_NO_KEY}")
        if named and named != owner:
            raise AnswerError(
                403, "tenant_mismatch", f"{TENANT_HEADER}: the key is another tenant's; leave it out"
            )
        return owner
