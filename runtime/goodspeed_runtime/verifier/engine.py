"""The verifier's loop: one packed pass a round over everything that is ready.

Runs in a thread of its own and owns the model, the sequences and the grants;
the event loop only drops commands into its inbox and receives frames. It is a
loop, not a barrier: a round takes what has arrived, and a late draft joins the
next one. A drafter's mistake ends that one sequence; a failed pass ends the
sequences in it; passes that keep failing end the process.
"""

from __future__ import annotations

import logging
import threading
import time

from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.serving import ServedModel
from goodspeed_runtime.decoding.verification import Request, Verdicts, verify
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock
from goodspeed_runtime.verifier.agenda import NOTHING, Work, agenda
from goodspeed_runtime.verifier.grants import Grants, Outcome
from goodspeed_runtime.verifier.inbox import Inbox
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.pacing import seconds_to_wait
from goodspeed_runtime.verifier.sequence import Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.speeds import RoundTimes
from goodspeed_runtime.verifier.verdicts import Replies, commit_draft, commit_first
from goodspeed_runtime.verifier.waiting import WaitingRoom

logger = logging.getLogger(__name__)

FAILURES_TO_GIVE_UP = 3


class Engine:
    """The compute thread.

    Attributes:
        failed: set once passes keep failing; the process should exit.
    """

    def __init__(self, model: ServedModel, settings: VerifierSettings, ledger: Ledger) -> None:
        self._model = model
        self._settings = settings
        self._grants = Grants(settings)
        self._ledger = ledger
        self._clients: set[Client] = set()
        self._waiting = WaitingRoom()
        self._inbox = Inbox()
        self._under_way: list[Work] = []
        self._failures = 0
        self._recent_round = 0.0
        self._last_round = 0.0
        self._wait_seconds: float | None = None
        self.failed = threading.Event()
        ledger.slots_used(lambda: settings.max_sequences - model.cache.free_slots)
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def start(self) -> None:
        """Starts the rounds."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Ends after the round under way, or after ``seconds``."""
        self._inbox.stop()
        self._thread.join(seconds)

    @property
    def backlog(self) -> int:
        """Commands that wait for the round under way to end."""
        return len(self._inbox)

    # Commands, from any thread; each is carried out before the next round.

    def attach(self, client: Client) -> None:
        """A drafter has been welcomed."""
        self._inbox.post(client, lambda: self._attach(client))

    def detach(self, client: Client) -> None:
        """A drafter's stream is gone: its sequences' slots are free before the next round."""
        self._inbox.post(client, lambda: self._detach(client))

    def send_away(self, client: Client, drain: pb.Drain) -> None:
        """Tells a drafter to go: every verdict has been sent before, and nothing is computed for it after."""
        self._inbox.post(client, lambda: self._send_away(client, drain))

    def set_budget(self, tokens: int) -> None:
        """Changes C from the next round on; there is room for `VerifierSettings.most_budget`."""
        self._grants.budget = tokens
        self._ledger.budget(tokens)

    def open(self, sequence: Sequence) -> None:
        """A checked sequence is to be prefilled, or to wait for a slot."""
        self._inbox.post(sequence.client, lambda: self._open(sequence))

    def draft(self, client: Client, key: int, position: int, draft: DraftBlock) -> None:
        """A draft whose ids are inside the vocabulary has arrived."""
        arrived = time.monotonic()
        self._inbox.post(client, lambda: self._draft(client, key, position, draft, arrived))

    def close(self, client: Client, key: int) -> None:
        """A sequence is over, or its user has gone."""
        self._inbox.post(client, lambda: self._close(client, key))

    def refuse(self, client: Client, key: int, code: pb.ErrorCode, message: str) -> None:
        """Something about a sequence cannot be: it ends, and its drafter is told once its slot is free."""
        self._inbox.post(client, lambda: self._fail(client, key, code, message))

    def _attach(self, client: Client) -> None:
        self._clients.add(client)
        self._grants.add(client)
        self._ledger.add(client)

    def _detach(self, client: Client) -> None:
        if client not in self._clients:
            return
        for sequence in list(client.sequences.values()):
            self._forget(sequence)
        self._clients.discard(client)
        self._grants.remove(client)
        self._ledger.remove(client)

    def _send_away(self, client: Client, drain: pb.Drain) -> None:
        if client not in self._clients:
            return
        for sequence in list(client.sequences.values()):
            self._forget(sequence)
        client.leaving = True
        client.deliver(pb.VerifierFrame(drain=drain))

    def _open(self, sequence: Sequence) -> None:
        client = sequence.client
        if client not in self._clients or client.leaving:
            return
        if sequence.key in client.sequences:
            self._fail(
                client, sequence.key, pb.DUPLICATE_SEQUENCE, f"sequence {sequence.key} is open already"
            )
        elif (
            self._model.cache.free_slots == 0 and self._waiting.waiting(client) >= self._settings.max_waiting
        ):
            self._fail(
                client,
                sequence.key,
                pb.OVERLOADED,
                f"{self._settings.max_waiting} of this drafter's sequences wait for a slot; try again later",
            )
        else:
            client.sequences[sequence.key] = sequence
            self._waiting.add(sequence)
            self._admit()

    def _draft(self, client: Client, key: int, position: int, draft: DraftBlock, arrived: float) -> None:
        sequence = client.sequences.get(key)
        if sequence is None:
            # It ended here while the draft was on its way, or the drafter is confused: it may open it again.
            if client in self._clients and not client.leaving:
                self._fail(client, key, pb.UNKNOWN_SEQUENCE, f"sequence {key} is not open")
            return
        if not sequence.opened or sequence.draft is not None or position != len(sequence.tokens):
            self._fail(
                client,
                key,
                pb.WRONG_POSITION,
                f"a draft at position {position}, but the sequence "
                + (f"goes on at {len(sequence.tokens)}" if sequence.opened else "is still being opened")
                + (", and a draft for it waits already" if sequence.draft is not None else ""),
            )
        elif len(draft) > sequence.grant:
            self._fail(
                client,
                key,
                pb.OVER_GRANT,
                f"{len(draft)} drafted tokens exceed the grant of {sequence.grant}",
            )
        else:
            sequence.draft = draft
            sequence.arrived = arrived

    def _close(self, client: Client, key: int) -> None:
        sequence = client.sequences.get(key)
        if sequence is not None:
            self._forget(sequence)

    def _fail(self, client: Client, key: int, code: pb.ErrorCode, message: str) -> None:
        """Ends one sequence with a typed error."""
        sequence = client.sequences.get(key)
        if sequence is not None:
            self._forget(sequence)
        self._ledger.error(code)
        client.deliver(pb.VerifierFrame(errors=[pb.Error(sequence=key, code=code, message=message)]))

    def _forget(self, sequence: Sequence) -> None:
        sequence.client.sequences.pop(sequence.key, None)
        self._waiting.remove(sequence)
        if sequence.slot >= 0:
            self._model.release(sequence.slot)
            sequence.slot = -1

    # Rounds, in the compute thread only.

    def _run(self) -> None:
        try:
            while self._gather():
                self._attempt()
                if self._failures >= FAILURES_TO_GIVE_UP:
                    self.failed.set()
                    return
        except Exception:
            logger.exception("the rounds have ended")
            self.failed.set()

    def _attempt(self) -> None:
        """A round; one that fails ends the sequences in it, since nobody knows how far they got."""
        self._under_way = []
        try:
            self._round()
            self._failures = 0
        except Exception:
            logger.exception("a round failed")
            self._failures += 1
            for item in self._under_way:
                sequence = item.sequence
                if sequence.slot >= 0:
                    self._model.cache.scrub(sequence.slot)
                    self._fail(
                        sequence.client,
                        sequence.key,
                        pb.INTERNAL,
                        "the verifier's pass failed; open it again",
                    )

    def _gather(self) -> bool:
        """Waits until a round is worth starting; False to stop."""
        first: float | None = None
        while self._inbox.carry_out():
            self._admit()
            ready, expected = self._census()
            if not ready:
                self._inbox.wait(None)
                continue
            first = first or time.monotonic()
            wait = seconds_to_wait(
                ready=ready,
                expected=expected,
                since_first=time.monotonic() - first,
                recent_round=self._recent_round,
                gather_fraction=self._settings.gather_fraction,
                since_round=time.monotonic() - self._last_round,
                chosen=self._wait_seconds,
            )
            if wait <= 0:
                self._ledger.phase("gather", time.monotonic() - first)
                return True
            self._inbox.wait(wait)
        return False

    def _admit(self) -> None:
        while (sequence := self._waiting.next()) is not None:
            slot = self._model.acquire()
            if slot is None:
                return
            self._waiting.remove(sequence)
            sequence.slot = slot

    def _live(self) -> list[Sequence]:
        return [s for client in self._clients for s in client.sequences.values() if s.slot >= 0]

    def _census(self) -> tuple[int, int]:
        live = self._live()
        ready = sum(1 for s in live if s.draft is not None or not s.opened)
        return ready, len(live) - ready

    def _round(self) -> None:
        started = time.monotonic()
        work = self._under_way = agenda(self._live(), self._settings.prefill_chunk_tokens)
        logits = self._model.forward([item.segment for item in work])
        judged = [item for item in work if item.request is not None]
        verdicts = verify(logits, [item.request for item in judged if item.request is not None])
        computed = time.monotonic()
        tokens = sum(len(item.segment.tokens) for item in work)
        begun = min(item.sequence.granted if item.sequence.opened else item.sequence.arrived for item in work)
        times = RoundTimes(tokens, computed - started, computed - max(self._last_round, begun))
        replies = Replies(started, round(1e6 * (computed - started)))
        for item in work:
            if item.request is None:
                item.sequence.filled += len(item.segment.tokens)
        outcomes = self._commit(judged, verdicts, replies)
        active = [sequence for sequence in self._live() if sequence.opened]
        self._grants.learn(outcomes, active, times)
        self._regrant(active, [item.sequence for item in judged], replies)
        for client, frame in replies.frames():
            client.deliver(frame)
        finished = self._last_round = time.monotonic()
        for item in judged:
            item.sequence.granted = finished
        self._recent_round = finished - started
        self._ledger.round(
            outcomes,
            tokens=tokens,
            forward=computed - started,
            schedule=finished - computed,
            clients=self._clients,
            grants=self._grants,
        )

    def _commit(self, judged: list[Work], verdicts: Verdicts, replies: Replies) -> list[Outcome]:
        outcomes = []
        context = self._settings.max_context_tokens
        for index, item in enumerate(judged):
            sequence = item.sequence
            accepted, token = int(verdicts.accepted[index]), int(verdicts.next_tokens[index])
            if token < 0:
                self._model.cache.scrub(sequence.slot)
                self._fail(sequence.client, sequence.key, pb.INTERNAL, "the target's logits were not finite")
                continue
            if sequence.opened:
                drafted = len(item.segment.tokens) - 1
                committed = commit_draft(sequence, accepted, token, context, replies)
                self._model.lengths[sequence.slot] = len(sequence.tokens) - 1
                outcomes.append(
                    Outcome(
                        sequence,
                        drafted,
                        float(verdicts.soft_ratios[index]),
                        committed,
                        min(accepted, committed),
                        max(0.0, sequence.arrived - sequence.granted),
                    )
                )
            else:
                commit_first(sequence, token, context, replies)
                self._ledger.first_token(sequence.client)
            if replies.finished(sequence):
                self._forget(sequence)
        return outcomes

    def _regrant(self, active: list[Sequence], judged: list[Sequence], replies: Replies) -> None:
        if not active:
            return
        members = {id(sequence) for sequence in judged}
        with self._ledger.solving():
            figures = self._grants.grant(active, [id(sequence) in members for sequence in active])
        self._wait_seconds = figures.wait_seconds
        self._ledger.scheduled(figures)
        for sequence in judged:
            if sequence.slot >= 0 and sequence.opened:
                replies.grant(sequence)
                self._ledger.granted(sequence)


def warm_up(model: ServedModel) -> None:
    """One pass of each kind before anyone waits for it."""
    slot = model.acquire()
    if slot is None:
        return
    try:
        for tokens in ([0] * 8, [0]):
            logits = model.forward([Segment(slot, 0, tokens, 1)])
            verify(logits, [Request(len(tokens), NOTHING, Sampling(temperature=1.0))])
    finally:
        model.lengths[slot] = 0
        model.release(slot)
