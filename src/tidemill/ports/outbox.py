"""Remembering webhooks, and what they are still to be told.

A delivery is inserted by the database itself in the transaction that changes a job's state: one for each webhook
that asked for it. What is rolled back, or refused because the lease was lost, tells nobody anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from datetime import datetime, timedelta

from tidemill.domain.webhook import Claimed, Delivery, DeliveryState, Webhook, WebhookChange


class WebhookStore(ABC):
    """Webhooks of tenants. Another tenant's is not found; `tenant=None` finds all."""

    @abstractmethod
    def add(self, webhook: Webhook, *, most: int) -> bool:
        """Durable when it returns True; False: the tenant has `most` of them already."""

    @abstractmethod
    def get(self, webhook_id: str, tenant: str | None = None) -> Webhook:
        """Raises NotFound."""

    @abstractmethod
    def list(self, tenant: str | None = None) -> list[Webhook]:
        """Oldest first."""

    @abstractmethod
    def change(self, webhook_id: str, change: WebhookChange, tenant: str | None = None) -> Webhook:
        """To disable one gives up what it waits for; to enable one forgets why it was disabled. Raises NotFound."""

    @abstractmethod
    def rotate(self, webhook_id: str, overlap: timedelta, tenant: str | None = None) -> Webhook:
        """The next generation; the one before signs, too, for so long by the database's clock. Raises NotFound."""

    @abstractmethod
    def disable(self, webhook_id: str, reason: str) -> None:
        """Send nothing more, for this reason, and give up what waits. One that is gone stays gone."""

    @abstractmethod
    def remove(self, webhook_id: str, tenant: str | None = None) -> None:
        """With its deliveries. Raises NotFound."""

    @abstractmethod
    def foreign_key(self, key_id: str) -> str | None:
        """The id of another signing key that some webhook's secrets come from, if there is one."""


class Outbox(ABC):
    """Deliveries. Each is attempted by one sender at a time, until it arrived or is given up."""

    @abstractmethod
    def ping(self, webhook_id: str) -> Delivery:
        """Add one that a person asked for, due now, whatever the webhook asks for. Raises NotFound."""

    @abstractmethod
    def claim_due(
        self, key_id: str, *, limit: int, each: int, lease_seconds: float, busy: Collection[str] = ()
    ) -> list[Claimed]:
        """Take deliveries whose time has come, of enabled webhooks signed with that key: at most `each` of one
        webhook, first the first of each, and none of the `busy` ones. Counts an attempt.

        A sender that does not say what became of one within the lease, by the database's clock, is taken for dead:
        it is due again.
        """

    @abstractmethod
    def claim(self, delivery_id: str, key_id: str, *, lease_seconds: float) -> Claimed | None:
        """Take this very one, if it is due; else None."""

    @abstractmethod
    def delivered_if_current(self, claimed: Claimed, status: int) -> bool:
        """It arrived. False, and nothing was written: somebody else claimed it meanwhile, or it is gone."""

    @abstractmethod
    def failed_if_current(
        self, claimed: Claimed, problem: str, *, status: int | None, retry_seconds: float | None
    ) -> bool:
        """It did not arrive; it is due again after so long, or (None) given up. False as above."""

    @abstractmethod
    def get(self, delivery_id: str, webhook_id: str) -> Delivery:
        """Raises NotFound."""

    @abstractmethod
    def list(
        self,
        *,
        webhook_id: str | None = None,
        job_id: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[Delivery]:
        """Newest first; `before` is a delivery's number."""

    @abstractmethod
    def counts_by_state(self) -> dict[DeliveryState, int]:
        """How many that are remembered stand where; states without any are left out."""

    @abstractmethod
    def forget_before(self, moment: datetime, *, limit: int) -> int:
        """Delete at most so many that are older than that, whatever became of them; how many it was."""
