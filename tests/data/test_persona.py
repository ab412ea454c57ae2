from __future__ import annotations

from pathlib import Path

import pytest

from sptune.data.persona import MAX_BYTES, load_persona, split_persona
from sptune.errors import DataError

WANTED = ("I sail.", "I have 2 dogs.")

MESSAGES = (
    '{"persona": ["I sail.", "I have 2 dogs."], "messages": '
    '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ahoy"}]}\n'
)
CONVAI2 = "1 your persona: I sail.\n2 your persona: I have 2 dogs.\n3 hi\tahoy\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("persona.txt", "I sail.\n\n  I have 2 dogs.  \n"),
        ("persona", "I sail.\r\nI have 2 dogs."),
        ("persona.txt", "\ufeffI sail.\nI have 2 dogs."),
        ("persona.json", '["I sail.",\n "I have 2 dogs.", " "]'),
        ("talks.jsonl", MESSAGES + MESSAGES.replace("I sail.", "I bake.")),
        ("talks.txt", CONVAI2),
    ],
)
def test_every_form_of_a_persona(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert load_persona(tmp_path / name) == WANTED


def test_a_sentence_may_look_like_json_or_numbering_in_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "persona.txt"
    file.write_text("[laughs] often\n2 dogs live with me .\n")
    assert load_persona(file) == ("[laughs] often", "2 dogs live with me .")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", r"p\.txt: no sentence in it"),
        ("p.txt", b" \n\t\n", r"p\.txt: no sentence in it"),
        ("p.txt", b"I sail.\nbell \x07\n", r"p\.txt:2: control character U\+0007"),
        ("p.txt", b"I sail.\n\ncaf\xe9\n", r"p\.txt:3: byte 0xe9"),
        ("p.txt", b"I\0sail", "binary"),
        ("p.txt", b"I sail .\n" * (MAX_BYTES // 8), "larger than"),
        ("p.json", b"[1]", r"p\.json:1: item 1 of the list"),
        ("p.json", b'["I sail.",\n"I', r"p\.json:2: not JSON"),
        ("p.json", b'["\\ud800"]', r"p\.json:1: item 1 of the list has unpaired surrogate"),
        ("p.json", b"[]", r"p\.json: no sentence in it"),
        ("p.json", b"[" * 50_000, r"p\.json:1: not JSON"),
        ("p.json", b'{"name": "Ann"}', "JSON without"),
        ("p.jsonl", b'{"messages": []}', r"p\.jsonl:1: "),
        ("p.jsonl", MESSAGES.replace("persona", "about").encode(), "has no persona"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_persona(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_persona(tmp_path / "nobody.txt")
    with pytest.raises(DataError, match="is a folder"):
        load_persona(tmp_path)


def test_sentences_in_one_line() -> None:
    assert split_persona(" I sail. | I bake. |") == ("I sail.", "I bake.")
    assert split_persona(" | ") == ()
