"""What may be shown, logged and stored: text without secrets, and without what steers a terminal or forges a line."""

from __future__ import annotations

import re

HIDDEN = "***"

_NAMES = (
    r"[A-Za-z0-9_-]{0,40}"
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|authorization)"
)
_VALUE = r"[^\s\"'&,;)}\]]+"

_SECRETS = (
    # user:password@ of a URL, and a token that stands there alone.
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"']*:)[^\s/@\"']+(?=@)"), rf"\1{HIDDEN}"),
    (re.compile(r"(\bhttps?://)[^\s/:@\"']+(?=@)", re.IGNORECASE), rf"\1{HIDDEN}"),
    # Keys of this service: the part that is their id may be shown.
    (re.compile(r"(\btm_[a-z]+_[0-9a-z]{16}_)[0-9a-f]{48}"), rf"\1{HIDDEN}"),
    (re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9+/_.~=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # password=..., "token": "...", X-Amz-Signature=...
    (re.compile(r"([?&][\w.-]{0,40}(?:signature|sig|credential)=)[^\s&\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(?<![A-Za-z0-9_-])({_NAMES}\s*=\s*[\"']?){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"([\"']{_NAMES}[\"']\s*:\s*[\"']){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
)
_UNNAMED = 5
"""So many of them go by what a credential or its place in a URL looks like; the others by its name."""
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)

# Control characters, the marks that turn the direction of writing, and what other programs take for an end of line.
_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
_NOT_VISIBLE = re.compile(f"[{_STEERING}]")
_NOT_IN_A_LINE = re.compile(f"[{_STEERING}\n]")


def redacted(text: str) -> str:
    """The text with whatever looks like a credential replaced by ***."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def holds_credential(text: str) -> bool:
    """Whether a credential stands in a text by its looks alone: user:password@, a key of this service."""
    return any(pattern.search(text) for pattern, _ in _SECRETS[:_UNNAMED])


def is_secret_name(name: str) -> bool:
    """Whether a value of that name would be a credential: "password", "api_key", "hub_token"."""
    return _SECRET_NAME.fullmatch(name) is not None


def visible(text: str) -> str:
    r"""The text with characters that would steer a terminal as their escapes, such as \x1b; lines stay lines."""
    return _NOT_VISIBLE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""The same with ends of lines as \n: nobody's name can look like a line of its own."""
    return _NOT_IN_A_LINE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
