"""Templates: the due time of a schedule inside a name or a path. Nothing but these forms; nothing is run.

    {{ due }}                          2026-11-26T02:00:00+01:00
    {{ due | date }}                   2026-11-26
    {{ due - 1d | date }}              the day before
    {{ due - 1d | date("%Y/%m/%d") }}  2026/11/25

All in the schedule's time zone. `d` and `w` count days of the calendar, `h` and `m` hours and minutes that pass.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tidemill.domain.errors import InvalidSpec

_OPEN, _CLOSE = "{{", "}}"
_ANY = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_FORM = re.compile(
    r"""\s* due \s*
    (?: (?P<sign>[+-]) \s* (?P<number>[0-9]{1,4}) \s* (?P<unit>[mhdw]) \s* )?
    (?P<date> \| \s* date \s* (?: \( \s* (?P<quote>["']) (?P<format>[^"'{}]*) (?P=quote) \s* \) \s* )? )?
    """,
    re.VERBOSE,
)
_DIRECTIVES = frozenset("YymdHMSjGVu%")
_DATE = "%Y-%m-%d"
_FORMS = '{{ due }}, {{ due | date }}, {{ due - 1d | date }} and {{ due | date("%Y/%m/%d") }}'


def has_template(text: str) -> bool:
    """Whether braces of a template are in it, good or bad."""
    return _OPEN in text or _CLOSE in text


def render(text: str, due: datetime, zone: str) -> str:
    """The text with its templates replaced by the due time, as clocks of the zone show it. Raises InvalidSpec."""
    local = due.astimezone(ZoneInfo(zone))
    rest = _ANY.sub("", text)
    if has_template(rest):
        raise InvalidSpec(f"{text!r} has braces that do not belong together.", remedy=f"Write {_FORMS}.")
    return _ANY.sub(lambda found: _value(found[1], found[0], local), text)


def _value(inner: str, whole: str, local: datetime) -> str:
    form = _FORM.fullmatch(inner)
    if form is None:
        raise InvalidSpec(f"{whole} is no template of a schedule.", remedy=f"There are {_FORMS}; units are m, h, d, w.")
    try:
        moment = _moved(local, form["sign"], form["number"], form["unit"])
    except OverflowError as exc:
        raise InvalidSpec(f"{whole} is before or after all dates.", remedy="Count fewer days.") from exc
    if form["date"] is None:
        return moment.isoformat(timespec="seconds")
    return _formatted(moment, _DATE if form["format"] is None else form["format"], whole)


def _moved(local: datetime, sign: str | None, number: str | None, unit: str | None) -> datetime:
    if sign is None or number is None or unit is None:
        return local
    count = int(sign + number)
    if unit in "dw":
        return local + timedelta(days=count * (7 if unit == "w" else 1))
    passed = timedelta(minutes=count) if unit == "m" else timedelta(hours=count)
    return (local.astimezone(UTC) + passed).astimezone(local.tzinfo)


def _formatted(moment: datetime, form: str, whole: str) -> str:
    # Of strftime only what means the same everywhere: other directives follow the server's language.
    unknown = sorted({found for found in re.findall(r"%(.?)", form, re.DOTALL) if found not in _DIRECTIVES})
    if unknown or "%" in form.replace("%%", "")[-1:]:
        raise InvalidSpec(
            f"{whole} has a format that is not known: %{unknown[0] if unknown else ''}.",
            remedy="There are %Y %y %m %d %H %M %S, %j for the day of the year, %G %V %u for the week, and %%.",
        )
    if not form.isprintable():
        raise InvalidSpec(f"{whole!r} holds characters that nobody sees.", remedy="Write the format on one line.")
    return moment.strftime(form)
