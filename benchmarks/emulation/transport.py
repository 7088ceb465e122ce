"""Settings of gRPC's transport, to be tried against those that the runtime has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from goodspeed_runtime.drafter import link
from goodspeed_runtime.verifier import server

VARIANTS: dict[str, list[tuple[str, int]]] = {
    "as set": [],
    "BDP probe on": [("grpc.http2.bdp_probe", 1)],
    "lookahead 1 MiB": [("grpc.http2.lookahead_bytes", 1 << 20)],
    "write buffer 1 MiB": [("grpc.http2.write_buffer_size", 1 << 20)],
    "ping every 30 s": [("grpc.keepalive_time_ms", 30000)],
}


@contextlib.contextmanager
def transport(variant: str) -> Iterator[None]:
    """Both ends use a variant while the block runs; of an option named twice the last counts."""
    kept = [list(link._OPTIONS), list(server.OPTIONS)]
    more = VARIANTS[variant]
    names = {name for name, _ in more}
    for options in (link._OPTIONS, server.OPTIONS):
        options[:] = [option for option in options if option[0] not in names] + more
    try:
        yield
    finally:
        link._OPTIONS[:], server.OPTIONS[:] = kept
