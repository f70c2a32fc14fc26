"""What format an input file is of."""

from __future__ import annotations

from collections.abc import Iterable

from tidemill.domain.errors import UnknownFormat
from tidemill.domain.plan import InputFile
from tidemill.ports.source import Source
from tidemill.sources.compression import read_head
from tidemill.sources.listing import plain_name


def detect_format(file: InputFile, members: Iterable[type[Source]]) -> str:
    """The name of the source that reads the file, by its content; the file's ending only decides
    between formats that both fit. Raises UnknownFormat, InputUnreadable."""
    head = read_head(file)
    matching = [member for member in members if member.matches(head, file.path)]
    if len(matching) > 1:
        name = plain_name(file.path)
        matching = [member for member in matching if name.endswith(member.suffixes)] or matching[-1:]
    if not matching:
        what = "is empty" if not head else "is of no format that can be read"
        raise UnknownFormat(f"{file.path} {what}.", remedy="Name its format, or take it out of the input.")
    return matching[0].name
