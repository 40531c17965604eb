"""Text as editors and systems write it, and what is no UTF-8 or JSON."""

import codecs
from pathlib import Path

import pytest

from evaluators._texts import TextError, parse_json, read_text, split_lines

LINES = '{"text": "one\u2028line, caf\u00e9"}\n\n{"text": "two\\u2028"}\n'


def file(folder: Path, data: bytes) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("start", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_any_editor_writes_the_same_text(tmp_path: Path, start: bytes, end: str, last: str) -> None:
    text = read_text(file(tmp_path, start + (LINES.removesuffix("\n") + last).replace("\n", end).encode()))
    assert text == LINES.removesuffix("\n") + last
    lines = split_lines(text)
    assert len(lines) == 3, "a line separator inside of a string ends no line"
    assert parse_json(lines[0], "line 1") == {"text": "one\u2028line, caf\u00e9"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LINES.encode("utf-16"), r"data.jsonl is UTF-16 or UTF-32 text; UTF-8 is expected. Save it as UTF-8"),
        (LINES.encode("utf-16-le"), "is UTF-16 or UTF-32"),
        (LINES.encode("utf-32-be"), "is UTF-16 or UTF-32"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', "data.jsonl, line 2: byte 0xe9 is not UTF-8"),
        (codecs.BOM_UTF8 + b"a\r\nb\r\n\xff", "data.jsonl, line 3: byte 0xff is not UTF-8"),
        (b"some longer text\nwith\0it", "data.jsonl, line 2: a NUL byte"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(TextError, match=message):
        read_text(file(tmp_path, data))


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"cannot be read: Is a directory\.$"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "line 7 is not valid JSON: NaN is not a JSON number; write null"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ("{'a': 1}", "Expecting property name enclosed in double quotes"),
        ('{"a": 1} x', "Extra data"),
    ],
)
def test_what_is_no_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        parse_json(text, "line 7")


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json('["\\ud83d\\ude00", 1e-400, 12345678901234567890]', "x") == [
        "\U0001f600",
        0.0,
        12345678901234567890,
    ]
