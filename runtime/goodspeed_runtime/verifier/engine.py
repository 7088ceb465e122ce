"""The verifier's loop: one packed pass a round over everything that is ready.

Runs in a thread of its own and owns the model, the sequences and the grants;
the event loop only drops commands into its inbox and receives frames. It is a
loop, not a barrier: a round takes what has arrived, and a late draft joins the
next one (`admission` decides). A failed pass ends the sequences in it; passes
that keep failing end the process.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from contextlib import nullcontext
from functools import partial

import numpy as np

from goodspeed_runtime.decoding.coupling import verify_coupled
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.verification import Verdicts, verify
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.admission import Admission, Barrier, Continuous, View
from goodspeed_runtime.verifier.agenda import Work, agenda
from goodspeed_runtime.verifier.grants import Grants
from goodspeed_runtime.verifier.inbox import Inbox
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import Arrival
from goodspeed_runtime.verifier.outcomes import UNANSWERED, Outcomes, Row
from goodspeed_runtime.verifier.prefill import PrefillLimit
from goodspeed_runtime.verifier.roster import Roster
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.speeds import RoundTimes
from goodspeed_runtime.verifier.verdicts import Replies, commit_first, commit_verdict

logger = logging.getLogger(__name__)

FAILURES_TO_GIVE_UP = 3
SWITCH_SECONDS = 0.0005
"""The longest that one thread keeps Python from another."""
_LATER = 0.25
"""A draft that should have come is expected after this share of the time that it has taken already."""

_OWN_STEP = 0.1
"""Of the mean of what a sequence in a round costs beside the pass."""


class Engine:
    """The compute thread.

    Attributes:
        failed: set once passes keep failing; the process should exit.
    """

    def __init__(
        self,
        model: ServedModel,
        settings: VerifierSettings,
        ledger: Ledger,
        admission: Admission | None = None,
    ) -> None:
        """Takes the model over; ``admission`` is the settings' unless another is given."""
        self._model = model
        self._settings = settings
        self._grants = Grants(settings)
        self._ledger = ledger
        self._admission: Admission = admission or (Barrier() if settings.barrier else Continuous())
        self._roster = Roster(model, settings, self._grants, ledger)
        self._verify = verify_coupled if settings.verification == "coupled" else verify
        self._inbox = Inbox()
        self._under_way: list[Work] = []
        self._joining: set[Sequence] = set()
        self._failures = 0
        self._last_round = 0.0
        self._busy_since = 0.0
        self._schedule_seconds = 0.0
        self._wait_seconds: float | None = None
        self._last_tokens = 1
        self._unbooked: Callable[[], None] | None = None
        self._device_computes = model.device.type == "cuda"
        self._own_seconds = 0.0
        self.failed = threading.Event()
        for account in self._grants.tenants.values():
            ledger.add_tenant(account)
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def start(self) -> None:
        """Starts the rounds."""
        if self._device_computes:
            # The event loop sends what a round has come to while the next one is prepared.
            sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Ends after the round under way, or after ``seconds``."""
        self._inbox.stop()
        self._thread.join(seconds)

    @property
    def backlog(self) -> int:
        """Commands that wait for the round under way to end."""
        return len(self._inbox)

    @property
    def tenants(self) -> dict[str, Account]:
        """Accounts of the tenants that requests may name; does not change."""
        return self._grants.tenants

    # Commands, from any thread; each is carried out before the next round.

    def attach(self, client: Client) -> None:
        """A drafter has been welcomed."""
        self._inbox.post(client, lambda: self._roster.attach(client))

    def detach(self, client: Client) -> None:
        """A drafter's stream is gone: its sequences' slots are free before the next round."""
        self._inbox.post(client, lambda: self._roster.detach(client))

    def send_away(self, client: Client, drain: pb.Drain) -> None:
        """Tells a drafter to go: every verdict has been sent before, and nothing is computed for it after."""
        self._inbox.post(client, lambda: self._roster.send_away(client, drain))

    def set_budget(self, tokens: int) -> None:
        """Changes C from the next round on; there is room for `VerifierSettings.most_budget`."""
        self._grants.budget = tokens
        self._ledger.budget(tokens)

    def open(self, sequence: Sequence) -> None:
        """A checked sequence is to be prefilled, or to wait for a slot."""
        self._inbox.post(sequence.client, lambda: self._roster.open(sequence))

    def draft(self, client: Client, drafts: Many[Arrival]) -> None:
        """Checked drafts have arrived together."""
        now = time.monotonic()
        self._inbox.post(client, lambda: self._roster.draft(client, drafts, now), len(drafts))

    def close(self, client: Client, key: int) -> None:
        """A sequence is over, or its user has gone."""
        self._inbox.post(client, lambda: self._roster.close(client, key))

    def refuse(self, client: Client, key: int, code: pb.ErrorCode, message: str) -> None:
        """Something about a sequence cannot be: it ends, and its drafter is told once its slot is free."""
        self._inbox.post(client, lambda: self._roster.fail(client, key, code, message))

    # Rounds, in the compute thread only.

    def _run(self) -> None:
        try:
            while self._gather():
                self._attempt()
                if self._failures >= FAILURES_TO_GIVE_UP:
                    self.failed.set()
                    return
            self._book()
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
                if item.sequence.slot >= 0:
                    self._spoilt(item.sequence, "the verifier's pass failed; open it again")

    def _spoilt(self, sequence: Sequence, message: str) -> None:
        self._model.cache.scrub(sequence.slot)
        self._roster.fail(sequence.client, sequence.key, pb.INTERNAL, message)

    def _gather(self) -> bool:
        """Waits until a round is worth starting; False to stop."""
        began: float | None = None
        roster = self._roster
        while self._inbox.carry_out():
            roster.admit()
            live = roster.live()
            if not live:
                self._book()
                self._inbox.wait(None)
                self._busy_since = time.monotonic()
                began = None
                continue
            now = time.monotonic()
            began = began or now
            out = [sequence for sequence in live if sequence.awaited and not sequence.filling]
            decision = self._admission.decide(self._view(live, out, now))
            if decision.wait <= 0:
                self._joining = {s for s, joins in zip(out, decision.join, strict=True) if joins}
                self._ledger.phase("gather", now - began)
                return True
            # Deciding costs a look at every sequence: not again for every draft that comes.
            until, enough, changes = now + decision.wait, roster.arrivals + decision.arrivals, roster.changes
            while (left := until - time.monotonic()) > 0:
                self._inbox.wait(left if left < np.inf else None, enough - roster.arrivals)
                if not self._inbox.carry_out():
                    return False
                if roster.arrivals >= enough or roster.changes != changes:
                    break
        return False

    def _view(self, live: list[Sequence], out: list[Sequence], now: float) -> View:
        ready = [sequence for sequence in live if sequence.draft is not None or sequence.filling]
        since = np.array([now - sequence.granted for sequence in out])
        due = np.array([sequence.due for sequence in out]) - now
        cost = self._grants.passes()
        return View(
            ready_tokens=sum(1.0 if sequence.filling else sequence.expected for sequence in ready),
            ready=len(ready),
            alone=len(live) - len(ready) - len(out),
            due=np.where(due > 0, due, _LATER * since),
            since=since,
            expected=np.array([sequence.expected for sequence in out]),
            acceptance=np.array([sequence.acceptance for sequence in out]),
            pass_seconds=cost.at(self._last_tokens),
            token_seconds=cost.slope(self._last_tokens) + self._own_seconds,
            since_round=now - self._last_round,
            chosen=self._wait_seconds,
        )

    def _round(self) -> None:
        started = time.monotonic()
        live = self._roster.live()
        settings = self._settings
        limit = PrefillLimit(settings.prefill_chunk_tokens, settings.prefill_share, self._grants.passes())
        work = self._under_way = agenda(live, self._joining, limit)
        prepared = time.monotonic()
        logits = self._model.forward([item.segment for item in work])
        judged = [item for item in work if item.request is not None]
        requests = [item.request for item in judged if item.request is not None]
        if self._device_computes:
            verdicts = self._verify(logits, requests, meanwhile=partial(self._prepare, live, judged))
        else:
            verdicts = self._verify(logits, requests)
        computed = time.monotonic()
        tokens = self._last_tokens = sum(len(item.segment.tokens) for item in work)
        begun = min(item.sequence.granted if item.sequence.opened else item.sequence.arrived for item in work)
        # The work beside the pass is the same whoever is in the round, so waiting for more saves that too.
        seconds = computed - started + self._schedule_seconds
        times = RoundTimes(
            tokens, seconds, computed - max(self._last_round, begun), computed - self._busy_since
        )
        self._busy_since = computed
        replies = Replies(round(1e6 * (computed - started)))
        for item in work:
            if item.sequence.filling:
                item.sequence.fed(item.segment.start + len(item.segment.tokens), computed)
                self._ledger.prompt_tokens("computed", len(item.segment.tokens))
        outcomes = Outcomes.of(self._commit(judged, verdicts, replies, computed))
        own = (prepared - started + time.monotonic() - computed) / len(work)
        self._own_seconds += _OWN_STEP * (own - self._own_seconds)
        active = [sequence for sequence in self._roster.live() if not sequence.filling]
        self._grants.learn(outcomes, active, times)
        self._regrant(active, judged, replies)
        sent = 0
        for client, frame in replies.frames():
            sent += frame.ByteSize()
            client.deliver(frame)
        finished = self._last_round = time.monotonic()
        self._schedule_seconds = finished - computed
        self._unbooked = partial(
            self._ledger.round,
            outcomes,
            tokens=tokens,
            forward=computed - started,
            schedule=finished - computed,
            grants=self._grants,
            sent_bytes=sent,
        )
        if not self._device_computes:
            self._meanwhile()

    def _prepare(self, live: list[Sequence], judged: list[Work]) -> None:
        """What can be done before the verdicts are known: the last round's rest, and the next grants."""
        self._meanwhile()
        opening = [item.sequence for item in judged if not item.sequence.opened]
        with self._ledger.solving():
            self._grants.plan([*(sequence for sequence in live if not sequence.filling), *opening])

    def _meanwhile(self) -> None:
        """What a round leaves to be done that nobody waits for: while a device computes the next one."""
        self._book()
        self._grants.reconsider()

    def _book(self) -> None:
        if self._unbooked is not None:
            self._unbooked()
            self._unbooked = None

    def _commit(self, judged: list[Work], verdicts: Verdicts, replies: Replies, now: float) -> list[Row]:
        outcomes = []
        context, lengths = self._settings.max_context_tokens, self._model.lengths
        columns = (verdicts.accepted.tolist(), verdicts.next_tokens.tolist(), verdicts.soft_ratios.tolist())
        for item, accepted, token, ratio in zip(judged, *columns, strict=True):
            sequence = item.sequence
            if token < 0:
                self._spoilt(sequence, "the target's logits were not finite")
                continue
            if sequence.opened:
                answered, idle = sequence.draft is not None, not sequence.grant
                drafted = item.drafted
                result = commit_verdict(
                    sequence, drafted, accepted, token, context, replies, overtakes=item.overtakes
                )
                clients = (sequence.client.row, sequence.account.row)
                came = (len(drafted), ratio, result.count, result.accepted)
                cycle = max(0.0, now - sequence.granted)
                if answered:
                    seconds = max(0.0, sequence.arrived - sequence.granted)
                    times = (sequence.sent, seconds, sequence.held_seconds, cycle, False)
                else:
                    times = (UNANSWERED, 0.0, 0.0, cycle if idle else 0.0, idle)
                outcomes.append((*clients, *came, *times))
                lengths[sequence.slot] = len(sequence.tokens) - 1
            else:
                result = commit_first(sequence, token, context, replies)
                self._ledger.first_token(sequence)
            if result.finish is not None:
                self._roster.forget(sequence)
        return outcomes

    def _regrant(self, active: list[Sequence], judged: list[Work], replies: Replies) -> None:
        if not active:
            return
        members = {item.sequence for item in judged if not item.overtakes}
        # Handing out a plan solves nothing.
        with nullcontext() if self._grants.planned else self._ledger.solving():
            figures = self._grants.grant(
                active, [sequence in members for sequence in active], time.monotonic()
            )
        self._wait_seconds = figures.wait_seconds
        self._ledger.scheduled(figures)
        for sequence, chance in zip(active, figures.least_chance.tolist(), strict=True):
            if sequence in members:
                replies.grant(sequence, chance)
