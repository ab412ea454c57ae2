"""`sptune data from-records` and `sptune data delete-user`: what a server recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sptune.data.save import save_dialogues
from sptune.errors import DataError, UsageError
from sptune.server.records.liked import CUT, LikedDialogues, liked_dialogues
from sptune.server.records.store import Records

FROM_RECORDS_EPILOG = (
    "Examples: `sptune data from-records chats.db --output liked.jsonl`, "
    "`sptune data from-records chats.db --dry-run --adapter pirate --since 2026-11-01`"
)
DELETE_USER_EPILOG = "Example: `sptune data delete-user chats.db user-4711`"

Database = Annotated[
    Path, typer.Argument(metavar="RECORDS", help="The database that `sptune serve --record` writes; it may be running.")
]


def from_records(  # noqa: PLR0913, PLR0917 - one parameter an option
    records: Database,
    output: Annotated[
        Path | None, typer.Option("--output", "--out", help="The file to write, one dialogue a line (messages).")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Only replies of this adapter (or bare base model).")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            metavar="DATE",
            help="Only replies from then on: 2026-11-01 or 2026-11-01T12:00:00, UTC.",
        ),
    ] = None,
    include_cut: Annotated[
        bool, typer.Option("--include-cut", help="Take liked replies that were cut off at the length limit, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report, and write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Turn liked replies into training dialogues, and report what was left out."""
    if output is None and not dry_run:
        raise UsageError("output: say where to write, as in --output liked.jsonl, or report only, with --dry-run")
    if output is not None and output.resolve() == records.resolve():
        raise UsageError(f"output: {output} is the database itself; name another file")
    start = since.replace(tzinfo=UTC).timestamp() if since else None
    with closing(Records.open(records, create=False)) as store:
        if adapter is not None and adapter not in (known := store.models()):
            raise DataError(f"{records}: no reply of {adapter!r}; it holds replies of {', '.join(known) or 'nobody'}")
        replies = store.count(model=adapter, since=start)
        found = liked_dialogues(store.rated(model=adapter, since=start), include_cut=include_cut)
    if found.dialogues and output is not None and not dry_run:
        save_dialogues(found.dialogues, output, force=force)
    written = output if found.dialogues and not dry_run else None
    typer.echo(_as_json(replies, found, written) if as_json else "\n".join(_as_text(records, replies, found, written)))
    if not found.dialogues and not dry_run:
        raise DataError(f"{records}: no liked reply to train on, so nothing was written")


def delete_user(
    records: Database, user: Annotated[str, typer.Argument(metavar="USER", help="As clients name it in `user`.")]
) -> None:
    """Delete everything that was recorded of one user. Files written from the records are not changed."""
    with closing(Records.open(records, create=False)) as store:
        count = store.delete_user(user)
    typer.echo(f"{records}: {count} {'reply' if count == 1 else 'replies'} to {user!r} deleted")


def _as_text(records: Path, replies: int, found: LikedDialogues, written: Path | None) -> Iterator[str]:
    unrated = replies - found.liked - found.disliked
    yield f"{records}: {replies} replies, {found.liked} liked, {found.disliked} disliked, {unrated} not rated"
    for reason, count in sorted(found.left_out.items(), key=lambda item: -item[1]):
        yield f"left out: {count} liked, {reason}{' (--include-cut takes them)' if reason == CUT else ''}"
    verb = f"{written}: {{}} written" if written else "{} to write"
    yield verb.format(
        f"{len(found.dialogues)} dialogues with {found.responses} liked replies and {found.history} others as history"
    )


def _as_json(replies: int, found: LikedDialogues, written: Path | None) -> str:
    report = asdict(found) | {"dialogues": len(found.dialogues), "replies": replies}
    return json.dumps(report | {"written": None if written is None else str(written)}, indent=2)
