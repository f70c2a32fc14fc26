"""Triggers that wait for something to happen: they look at their due times, and a job is due only if it has."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from tidemill.domain import trigger
from tidemill.domain.errors import InvalidSpec
from tidemill.domain.schedule import Overlap, Schedule
from tidemill.domain.trigger import Cron, Interval, Trigger


@dataclass(frozen=True, kw_only=True)
class Lookout(Trigger):
    """Looks whenever `when` is due.

    What is there has a name that changes when something happens. `seen` is the one for which it fired last, so it
    fires once for each, however many servers look: whoever fires writes the new one in the same transaction.
    """

    when: Cron | Interval
    seen: str = ""

    @property
    @abstractmethod
    def event(self) -> str:
        """What it waits for, for people."""

    @property
    def timezone(self) -> str:
        return self.when.timezone

    def next_after(self, moment: datetime) -> datetime | None:
        return self.when.next_after(moment)

    def after(self, seen: str) -> Self:
        """The trigger once it has fired for that."""
        return replace(self, seen=seen)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "look": self.when.to_json(), "seen": self.seen}

    def describe(self) -> str:
        return f"{self.event}; looks {self.when.describe()}"


class NewFiles(Lookout):
    """Files that the schedule's series has not scored."""

    kind = "new_files"

    @property
    def event(self) -> str:
        return "new files"


class AliasMoved(Lookout):
    """The model's alias points at another version."""

    kind = "alias_moved"

    @property
    def event(self) -> str:
        return "alias moved"


def trigger_of(data: dict[str, Any]) -> Trigger:
    """The trigger that `to_json` wrote, of any kind."""
    kinds: dict[str, type[Lookout]] = {NewFiles.kind: NewFiles, AliasMoved.kind: AliasMoved}
    kind = kinds.get(data["kind"])
    if kind is None:
        return trigger.trigger_of(data)
    when = trigger.trigger_of(data["look"])
    assert isinstance(when, Cron | Interval)
    return kind(when=when, seen=data["seen"])


def check_overlap(wanted: Schedule) -> None:
    """Raise InvalidSpec for a policy that makes no sense for a trigger that looks again by itself."""
    if isinstance(wanted.trigger, Lookout) and wanted.overlap is not Overlap.SKIP:
        raise InvalidSpec(
            f"A schedule that waits for {wanted.trigger.event} cannot {wanted.overlap.value} what overlaps: it looks"
            " again when its job is over, and finds whatever has come meanwhile.",
            remedy="Leave the overlap policy out.",
        )
