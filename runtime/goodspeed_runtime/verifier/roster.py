"""Who is here: drafters, their sequences, and who of them has a KV slot.

Carries out what drafters ask for, between two rounds and in the compute thread
only. A drafter's mistake ends that one sequence.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from goodspeed_runtime.decoding.prefixes import Tokens
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock
from goodspeed_runtime.verifier.grants import Grants
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import Arrival
from goodspeed_runtime.verifier.preemption import victim
from goodspeed_runtime.verifier.sequence import Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.waiting import WaitingRoom

_LOOKS = 8
"""In a turn, for a sequence that has to give way."""


class Roster:
    """Drafters with a stream, and their sequences.

    Attributes:
        clients: the drafters.
        arrivals: drafts that have come in, ever.
        changes: sequences that have come or gone, ever.
    """

    def __init__(
        self, model: ServedModel, settings: VerifierSettings, grants: Grants, ledger: Ledger
    ) -> None:
        self._model = model
        self._settings = settings
        self._grants = grants
        self._ledger = ledger
        self._waiting = WaitingRoom()
        self._filling: set[Sequence] = set()
        self._looks_again = 0.0
        self.clients: set[Client] = set()
        self.arrivals = 0
        self.changes = 0
        ledger.slots_used(lambda: settings.max_sequences - model.cache.free_slots)

    def live(self) -> list[Sequence]:
        """Sequences with a slot."""
        return [s for client in self.clients for s in client.sequences.values() if s.slot >= 0]

    def attach(self, client: Client) -> None:
        """A drafter has been welcomed."""
        self.clients.add(client)
        self._grants.add(client)
        self._ledger.add(client)

    def detach(self, client: Client) -> None:
        """Its stream is gone: its slots are free at once."""
        if client not in self.clients:
            return
        for sequence in list(client.sequences.values()):
            self.forget(sequence)
        self.clients.discard(client)
        self._grants.remove(client)
        self._ledger.remove(client)

    def send_away(self, client: Client, drain: pb.Drain) -> None:
        """Tells a drafter to go; nothing is computed for it after."""
        if client not in self.clients:
            return
        for sequence in list(client.sequences.values()):
            self.forget(sequence)
        client.leaving = True
        client.deliver(pb.VerifierFrame(drain=drain))

    def open(self, sequence: Sequence) -> None:
        """Lets a checked sequence wait for a slot, or refuses it."""
        client = sequence.client
        if client not in self.clients or client.leaving:
            return
        if sequence.key in client.sequences:
            self.fail(client, sequence.key, pb.DUPLICATE_SEQUENCE, f"sequence {sequence.key} is open already")
        elif (
            self._model.cache.free_slots == 0 and self._waiting.waiting(client) >= self._settings.max_waiting
        ):
            self.fail(
                client,
                sequence.key,
                pb.OVERLOADED,
                f"{self._settings.max_waiting} of this drafter's sequences wait for a slot; try again later",
            )
        else:
            client.sequences[sequence.key] = sequence
            sequence.scope = self._scope(sequence)
            sequence.since = time.monotonic()
            self._waiting.add(sequence)
            self.admit()

    def draft(self, client: Client, drafts: Iterable[Arrival], now: float) -> None:
        """Keeps drafts for the next round, as far as the verifier has not gone another way meanwhile."""
        for key, position, draft, held in drafts:
            self._keep(client, key, position, draft, held, now)

    def _keep(
        self, client: Client, key: int, position: int, draft: DraftBlock, held: float, arrived: float
    ) -> None:
        sequence = client.sequences.get(key)
        if sequence is None:
            # It ended here while the draft was on its way, or the drafter is confused: it may open it again.
            if client in self.clients and not client.leaving:
                self.fail(client, key, pb.UNKNOWN_SEQUENCE, f"sequence {key} is not open")
            return
        if not sequence.awaited or not sequence.granted_at <= position <= len(sequence.tokens):
            self.fail(client, key, pb.WRONG_POSITION, _unwanted(sequence, position))
        elif len(draft) > sequence.grant:
            self.fail(
                client,
                key,
                pb.OVER_GRANT,
                f"{len(draft)} drafted tokens exceed the grant of {sequence.grant}",
            )
        else:
            sequence.take(draft, position)
            sequence.arrived, sequence.held_seconds = arrived, held
            self.arrivals += 1

    def close(self, client: Client, key: int) -> None:
        """A sequence is over, or its user has gone."""
        sequence = client.sequences.get(key)
        if sequence is not None:
            self.forget(sequence)

    def fail(self, client: Client, key: int, code: pb.ErrorCode, message: str) -> None:
        """Ends one sequence with a typed error."""
        sequence = client.sequences.get(key)
        if sequence is not None:
            self.forget(sequence)
        self._ledger.error(code)
        client.deliver(pb.VerifierFrame(errors=[pb.Error(sequence=key, code=code, message=message)]))

    def forget(self, sequence: Sequence) -> None:
        """A sequence is no more; its slot is free."""
        sequence.client.sequences.pop(sequence.key, None)
        self._waiting.remove(sequence)
        self.changes += 1
        if sequence.slot >= 0:
            self._give_up(sequence)

    def _give_up(self, sequence: Sequence) -> None:
        self._model.release(sequence.slot)
        sequence.slot = -1
        sequence.account.held -= 1

    def admit(self) -> None:
        """Gives slots to whoever's turn it is, those of others too, and shares what has been computed."""
        now = time.monotonic()
        while (sequence := self._next(now)) is not None:
            self._waiting.remove(sequence)
            slot = self._model.acquire(None if sequence.scope is None else _known(sequence), sequence.scope)
            assert slot is not None
            sequence.sit_down(slot, self._model.lengths[slot], now)
            sequence.account.held += 1
            self.changes += 1
            self._ledger.prompt_tokens("shared", sequence.filled)
            self._filling.add(sequence)
        for sequence in list(self._filling):
            if sequence.slot < 0 or not sequence.filling:
                self._filling.discard(sequence)
            elif sequence.scope is not None:
                self._share(sequence, now)

    def _next(self, now: float) -> Sequence | None:
        """Whom there is a slot for, one that was just taken from another included."""
        turn = self._settings.turn_seconds
        if self._model.cache.free_slots:
            return next(iter(self._waiting.turns(now)), None)
        # Looking at everybody is not for every round.
        if not self._waiting or now < self._looks_again:
            return None
        live = self.live()
        for sequence in self._waiting.turns(now):
            other = victim(sequence, live, now, turn)
            if other is not None:
                self._preempt(other, now)
                return sequence
        self._looks_again = now + turn / _LOOKS
        return None

    def _share(self, sequence: Sequence, now: float) -> None:
        """Copies what another sequence has computed of its tokens since it got its slot."""
        filled = self._model.cache.extend(sequence.slot, _known(sequence))
        if filled > sequence.filled:
            self._ledger.prompt_tokens("shared", filled - sequence.filled)
            sequence.fed(filled, now)

    def _preempt(self, sequence: Sequence, now: float) -> None:
        """A sequence loses its slot to another account's and waits for the next."""
        self._give_up(sequence)
        sequence.stand_up()
        sequence.since = now
        self._waiting.put_back(sequence)
        self._ledger.preempted()

    def _scope(self, sequence: Sequence) -> str | None:
        """Requests that name no tenant are one tenant's, whoever drafts for them."""
        sharing = self._settings.prefix_sharing
        if sharing == "off":
            return None
        named = sharing == "tenant" and sequence.account is not sequence.client.account
        return sequence.account.name if named else ""


def _known(sequence: Sequence) -> Tokens:
    """What may be in the cache already: all but the last token, whose logits are wanted."""
    return np.array(sequence.tokens[:-1], dtype=np.int32)


def _unwanted(sequence: Sequence, position: int) -> str:
    if not sequence.opened:
        why = "the sequence is still being opened"
    elif sequence.draft is not None:
        why = f"the sequence goes on at {len(sequence.tokens)}, and a draft for it waits already"
    elif not sequence.grant:
        why = f"the sequence goes on at {len(sequence.tokens)} without drafts: its grant is 0"
    else:
        why = f"the sequence goes on at {len(sequence.tokens)}"
    return f"a draft at position {position}, but {why}"
