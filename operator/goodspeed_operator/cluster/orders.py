"""Carries decisions out on verifiers: a drafter goes to another cell, a cell gets another budget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from goodspeed_operator.rebalance.observe import Members
from goodspeed_runtime.rebalancing.decision import Action, Decision

ORDER_SECONDS = 3.0
ORDERS_AT_ONCE = 16


async def carry_out(
    http: httpx.AsyncClient, members: Members, decisions: Sequence[Decision]
) -> dict[Decision, str]:
    """Gives all orders; returns those that failed, and why. A drafter that did not move is still there."""
    limit = asyncio.Semaphore(ORDERS_AT_ONCE)
    cells = {cell.name: cell for cell in members.cells}

    async def one(decision: Decision) -> tuple[Decision, str]:
        try:
            if decision.action is Action.MOVE:
                url = f"{cells[decision.source].url}/drafters/{decision.subject}/cell"
                body: dict[str, object] = {"verifier": decision.destination}
            else:
                url = f"{cells[decision.subject].url}/budget"
                body = {"tokens": int(decision.destination)}
            async with limit:
                answer = await http.put(url, json=body, timeout=ORDER_SECONDS)
            return decision, "" if answer.is_success else answer.text.strip() or str(answer.status_code)
        except httpx.HTTPError as error:
            return decision, str(error) or type(error).__name__

    orders = [each for each in decisions if each.action in {Action.MOVE, Action.BUDGET}]
    answers = await asyncio.gather(*(one(each) for each in orders))
    return {decision: words for decision, words in answers if words}
