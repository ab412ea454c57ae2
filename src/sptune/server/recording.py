"""Keeping what was said, where the server is told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sptune.server.records.record import TurnRecord

if TYPE_CHECKING:
    from sptune.server.replies import Replies
    from sptune.server.service import Service


async def keep_replies(service: Service, replies: Replies, *, name: str, user: str | None) -> None:
    """Record the replies to a chat, as far as they were generated. An answer never fails because of it.

    Args:
        service: whose records are written; nothing is done where it keeps none.
        replies: closed already.
        name: id of the answer.
        user: the client's id of who talks.
    """
    if service.records is not None and (turns := _turns(replies, name, user)):
        kept = await asyncio.to_thread(lambda records: [records.conversation(turn) for turn in turns], service.records)
        if lost := kept.count(False):
            service.metrics.record_errors.inc(lost)


def _turns(replies: Replies, name: str, user: str | None) -> list[TurnRecord]:
    if not any(reply.finish or reply.tokens for reply in replies.replies):
        return []  # nothing came of it
    return [
        TurnRecord(
            completion_id=name,
            time=replies.created,
            model=replies.model,
            context=request.context,
            reply=reply.text,
            finish=reply.finish or "cancelled",
            user=user,
            selection=selection,
            prompt_tokens=tokens,
            completion_tokens=reply.tokens,
            choice=number,
        )
        for number, (request, reply, selection, tokens) in enumerate(
            zip(replies.requests, replies.replies, replies.selections, replies.prompt_tokens, strict=True)
        )
        if request.context is not None and (reply.finish or reply.tokens)
    ]
