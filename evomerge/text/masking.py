"""Masking of external texts, such as exceptions, before they are stored or shared: no secrets, no home folder.

Everything that a ledger, a report, a tracker or the terminal shows of an error passes through `masked`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

HIDDEN = "***"

#: Names of variables whose values are secrets; shorter values than this are words such as "true".
_SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSW(OR)?D|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 6

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\bhf_[A-Za-z0-9]{8,}",
        r"\bsk-[A-Za-z0-9_-]{8,}",
        r"\bgh[pousr]_[A-Za-z0-9]{8,}|\bgithub_pat_\w{8,}|\bglpat-[\w-]{8,}|\bnpm_[A-Za-z0-9]{8,}|\bpypi-[\w-]{16,}",
        r"\bxox[a-z]-[\w-]{8,}",
        r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}",
        r"\bAIza[\w-]{30,}",
        r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    )
)
#: A word that announces a secret, and the secret; a token without a digit is an ordinary word.
_ANNOUNCED = (
    re.compile(r"(?P<word>\b(?:Bearer|Basic)\s+)(?P<secret>[\w.~+/=-]{6,})", re.IGNORECASE),
    re.compile(
        r"(?P<word>\b(?:\w+[_-])?(?:secret|password|passwd)[\"']?\s*[:=]\s*[\"']?)(?P<secret>[^\s\"',;&)}\]]{4,})",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<word>\b(?:\w+[_-])?(?:token|api[_-]?key|access[_-]?key)[\"']?\s*[:=]\s*[\"']?)"
        r"(?P<secret>(?=[^\s\"',;&)}\]]*\d)[^\s\"',;&)}\]]{8,})",
        re.IGNORECASE,
    ),
)
_IN_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@:]*(?::[^\s/@]*)?@", re.IGNORECASE)


def masked(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the text without secrets, and with `~` for the home folder.

    Hides tokens of known services, anything after `Bearer`, `token=` or `password:`, user and password in a URL, and
    the values of environment variables whose names contain words such as token, key, secret or password.
    """
    variables = os.environ if environment is None else environment
    for secret in _values(tuple(sorted(_secrets(variables)))):
        text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    text = _IN_URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    for announced in _ANNOUNCED:
        text = announced.sub(rf"\g<word>{HIDDEN}", text)
    return at_home(text, variables)


def masked_data(data: Any) -> Any:
    """Mask every text in plain data; keys are unchanged."""
    if isinstance(data, str):
        return masked(data)
    if isinstance(data, Mapping):
        return {key: masked_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [masked_data(value) for value in data]
    return data


def shareable(data: Any, places: Iterable[Path]) -> Any:
    """Mask plain data for sharing, and reduce every path in `places` to its last part."""
    listed = sorted(places, key=lambda place: len(str(place)), reverse=True)
    names = {text: place.name for place in listed for text in (str(place), at_home(str(place)))}

    @cache
    def text(value: str) -> str:
        for place, name in names.items():
            value = value.replace(place, name)
        return masked(value)

    def shared(value: Any) -> Any:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, list | tuple):
            return [shared(item) for item in value]
        if isinstance(value, Mapping):
            return {key: shared(item) for key, item in value.items()}
        return value

    return shared(data)


def at_home(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace the home folder by `~`."""
    home = (os.environ if environment is None else environment).get("HOME", "").rstrip("/")
    if len(home) < 2 or not Path(home).is_absolute():
        return text
    return re.sub(rf"(?<![\w/.-]){re.escape(home)}(?![\w.-])", "~", text)


def _secrets(variables: Mapping[str, str]) -> set[str]:
    found = {variables[name] for name in variables if _SECRET_NAMES.search(name)}
    return {value for value in found if len(value.strip()) >= _SHORTEST}


@lru_cache(maxsize=8)
def _values(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Return every form in which a secret may appear in a text, the longest first."""
    forms = {
        form for secret in secrets for form in (secret, secret.strip(), quote(secret, safe=""), repr(secret)[1:-1])
    }
    return tuple(sorted(forms, key=len, reverse=True))
