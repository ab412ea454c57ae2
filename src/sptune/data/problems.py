"""A fault in a dialogue file: where it is, what is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Code(NamedTuple):
    """What a problem code stands for: its severity, its meaning (docs/data.md), and the fix shown to the user."""

    severity: Severity
    meaning: str
    fix: str


# An error leaves its dialogue out, because what was said cannot be known for certain; a warning leaves it in.
CODES: dict[str, Code] = {
    "wrong-encoding": Code("error", "bytes that are not UTF-8", "save the file as UTF-8"),
    "control-character": Code("error", "a control character inside text", "remove the character"),
    "unpaired-surrogate": Code("error", "half a UTF-16 pair in a JSON string", "write the whole character"),
    "long-line": Code("error", "a line of more than 1 MB", "put one dialogue or one turn on each line"),
    "broken-numbering": Code(
        "error", "a line number that does not follow the one before", "number the lines of each dialogue 1, 2, 3, ..."
    ),
    "missing-tab": Code("error", "a turn without a tab", "put a tab between the user's text and the response"),
    "extra-tab": Code(
        "error", "too many tab-separated fields", "write: user, response, reward (may be empty), candidates"
    ),
    "empty-response": Code("error", "a response without text", "write the response, or remove the turn"),
    "empty-user": Code(
        "error", "a user message without text after the first turn", "write what the user says, or join the responses"
    ),
    "no-turns": Code(
        "error", "a dialogue without a turn", "add a user message and its response, or remove the dialogue"
    ),
    "turn-before-persona": Code(
        "error",
        "a turn before any persona, in a file that has personas",
        "put the persona lines first, or read with --persona none (data.persona=none)",
    ),
    "late-persona": Code("error", "a persona after the first turn", "put the persona before the first turn"),
    "gold-missing": Code(
        "error", "candidates without the response", "put the response among its candidates, word for word"
    ),
    "invalid-json": Code(
        "error", "text that is not JSON, or is cut off", "write one complete JSON object on each line"
    ),
    "missing-key": Code("error", "a key that is needed and absent", "add the key"),
    "wrong-type": Code("error", "a value of the wrong JSON type", "use the type named"),
    "wrong-weight": Code(
        "error", "a weight that is neither 0 nor 1", "write 1 (or nothing) to learn the message, 0 for history only"
    ),
    "unknown-role": Code("error", "a speaker that is not known", "use one of the roles named"),
    "no-persona": Code(
        "warning",
        "a dialogue or a file without the persona asked for",
        "add a persona, or read with --persona none (data.persona=none)",
    ),
    "blank-persona": Code("warning", "a persona sentence without text; it is dropped", "write or remove the sentence"),
    "several-labels": Code(
        "warning", "a response with '|', which separates accepted answers; the first is used", "keep one response"
    ),
    "newline-in-response": Code(
        "warning",
        "a response of several lines",
        "write it on one line: generated responses are cut at the first newline",
    ),
    "not-alternating": Code(
        "warning", "two messages of one speaker in a row; they are joined by a space", "make the speakers alternate"
    ),
    "trailing-user": Code(
        "warning", "a last user message without an answer; it is dropped", "add the answer, or remove the message"
    ),
    "system-ignored": Code(
        "warning", "a system message beside a persona; it is not used", "keep the persona or the system message"
    ),
    "duplicate-dialogue": Code("warning", "a dialogue that is in the file already", "remove one of the two"),
    "duplicate-id": Code(
        "warning", "an id that is in the file already; it is renamed", "give each dialogue its own id"
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a dialogue file.

    Attributes:
        file: the file as the user named it.
        line: counted from 1; for a data set without lines, the row.
        code: a key of `CODES`.
        message: what is wrong, with the bad value.
        fix: what to do about it.
        severity: "error" (the dialogue is left out) or "warning" (the dialogue is kept).
    """

    file: str
    line: int
    code: str
    message: str
    fix: str
    severity: Severity

    def __str__(self) -> str:
        """`file:line: message; fix`.

        >>> str(Problem("talks.txt", 3, "missing-tab", "no tab in 'hi'", "add one", "error"))
        "talks.txt:3: no tab in 'hi'; add one"
        """
        return f"{self.file}:{self.line}: {self.message}; {self.fix}"


class Report:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._problems: list[Problem] = []

    def add(self, line: int, code: str, message: str) -> bool:
        """Record a problem on `line`; returns whether it is an error, so that its dialogue is left out."""
        severity, _, fix = CODES[code]
        self._problems.append(Problem(self.file, line, code, message, fix, severity))
        return severity == "error"

    def problems(self) -> tuple[Problem, ...]:
        """Everything recorded, by line."""
        return tuple(sorted(self._problems, key=lambda problem: problem.line))


def shown(text: str, limit: int = 60) -> str:
    """`text` as a message quotes it: escaped, and cut to `limit` characters.

    >>> shown("hi\\x1b there", limit=6)
    "'hi\\\\x1b th'..."
    """
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."
