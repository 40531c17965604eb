"""User-supplied text files, read by the standards from any editor and system: UTF-8, JSON, JSON lines.

A byte order mark at the beginning is skipped, and the line ends of Windows and old Macs become `\\n`
(https://www.rfc-editor.org/rfc/rfc8259#section-8.1, https://jsonlines.org). Anything else that is not UTF-8 or
JSON raises an error with file and line.
"""

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

_UTF16_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_AGAIN = "Save it as UTF-8 (in PowerShell: `Out-File -Encoding utf8`)."


class TextError(ValueError):
    """A file that is not valid text or JSON; the message gives the location."""

    exit_code = 2  # of a command that ends with this error


def read_text(file: str | Path) -> str:
    """Read a UTF-8 text file. Raises FileNotFoundError, or TextError with the line if it is not valid text."""
    try:
        data = Path(file).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TextError(f"{file} cannot be read: {error.strerror or error}.") from error
    return decode(data, str(file))


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8 bytes, with lines ending in `\\n`. Raises TextError, which begins with `name`."""
    body = data.removeprefix(codecs.BOM_UTF8)
    if data.startswith(_UTF16_32) or (body.count(0, 0, 1000) * 3 > len(body[:1000]) and body):
        raise TextError(f"{name} is UTF-16 or UTF-32 text; UTF-8 is expected. {_AGAIN}")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = body[error.start : error.start + 1].hex()
        raise TextError(f"{name}, line {_line(body, error.start)}: byte 0x{wrong} is not UTF-8. {_AGAIN}") from error
    if 0 in body:
        raise TextError(f"{name}, line {_line(body, body.index(0))}: a NUL byte, so it is not a text file.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_lines(text: str) -> list[str]:
    """Split a text into lines at `\\n` only: `str.splitlines` also splits at U+2028, which JSON strings may contain."""
    return text.removesuffix("\n").split("\n")


def parse_json(text: str, where: str) -> Any:
    """Parse a JSON text. Raises TextError, which begins with `where`.

    Rejects what Python's own reader accepts: NaN, infinite numbers, duplicate keys and half a surrogate pair.
    """

    def refuse(why: str) -> NoReturn:
        raise TextError(f"{where} is not valid JSON: {why}.")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            refuse(f"the key {next(key for n, key in enumerate(keys) if key in keys[:n])!r} appears twice")
        return found

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(f"the number {number} is too large")

    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_float=finite,
            parse_constant=lambda name: refuse(f"{name} is not a JSON number; write null, or remove it"),
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except TextError:
        raise
    except UnicodeEncodeError:
        refuse("half of a surrogate pair (\\ud800 to \\udfff) is not a character")
    except RecursionError:
        refuse("it is nested too deeply")
    except ValueError as error:
        refuse(str(error))
    return value


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
