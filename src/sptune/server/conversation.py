"""From the messages of a request to a dialogue: who replies, and to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.lines import clean
from sptune.data.messages import split_sentences
from sptune.server.errors import ApiError, bad_request

if TYPE_CHECKING:
    from sptune.server.schemas.requests import ConversationBody, Message, Persona

Personas = Mapping[str, tuple[str, ...]]


def read_conversation(body: ConversationBody, personas: Personas, *, name: str = "chat") -> Dialogue:
    """The dialogue that a request holds; its last turn waits for its response.

    Messages of one speaker in a row are joined by a line break. Control characters are dropped. With nothing but system
    messages, the persona speaks first.

    Args:
        body: the request.
        personas: those that can be given by name.
        name: id of the dialogue.

    Raises:
        ApiError: two personas, an unknown one, a system message after the first turn, or a last message that is not the
            user's.
    """
    system = [message for message in body.messages if message.role in {"system", "developer"}]
    if system and body.persona is not None:
        raise bad_request(
            "persona: given beside a system message, which is the persona too; send one of them", param="persona"
        )
    if any(message.role in {"system", "developer"} for message in body.messages[len(system) :]):
        raise bad_request(
            "messages: a system message after the first turn; the persona comes first and stays as it is",
            param="messages",
        )
    if body.persona is None:
        persona = tuple(sentence for message in system for sentence in split_sentences(clean(message.text)))
    else:
        persona = read_persona(body.persona, personas)
    return Dialogue(name, persona, _turns(body.messages[len(system) :]))


def read_persona(persona: Persona, personas: Personas) -> tuple[str, ...]:
    """The sentences of a persona that is given by its sentences or by its name.

    Raises:
        ApiError: no persona of that name.
    """
    if not isinstance(persona, str):
        return tuple(filter(None, (clean(sentence).strip() for sentence in persona)))
    if persona not in personas:
        raise ApiError(
            404,
            "persona_not_found",
            "persona: this server has no persona of that name; GET /v1/spt/personas lists them, or send a list of sentences",
            param="persona",
        )
    return personas[persona]


def _turns(messages: Sequence[Message]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    user: str | None = None
    for role, text in _joined(messages):
        if role == "user":
            user = text
        else:
            turns.append(Turn(user or "", text))
            user = None
    if user is None and turns:
        raise bad_request("messages: the last one is the assistant's; end with what the user says", param="messages")
    return (*turns, Turn(user or ""))


def _joined(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, text) of the messages, those of one speaker in a row as one."""
    talk: list[tuple[str, str]] = []
    for message in messages:
        text = clean(message.text).strip()
        if talk and talk[-1][0] == message.role:
            text = f"{talk.pop()[1]}\n{text}".strip()
        talk.append((message.role, text))
    if any(not text for number, (role, text) in enumerate(talk) if number or role == "assistant"):
        raise bad_request("messages: one says nothing, which only the user's first may; leave it out", param="messages")
    return talk
