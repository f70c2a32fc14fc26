"""The contract of a metadata store. Subclass `StoreContract`, say how to open a store, and run pytest.

class TestMyStore(StoreContract):
    opener = "my_package.store:open_store"

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"mine://{tmp_path}"

A store whose workers are all on one machine also passes `LockedWorkersSuite`.
"""

from __future__ import annotations

from tidemill.testing.store.admission import AdmissionSuite
from tidemill.testing.store.claiming import ClaimingSuite
from tidemill.testing.store.factories import (
    HOST,
    LONG,
    ROWS,
    SHORT,
    new_firing,
    new_job,
    new_key,
    new_pin,
    new_plan,
    new_receipt,
    new_schedule,
    new_version,
    new_webhook,
)
from tidemill.testing.store.handle import HandleSuite
from tidemill.testing.store.history import HistorySuite
from tidemill.testing.store.keys import KeysSuite
from tidemill.testing.store.leases import LeasesSuite
from tidemill.testing.store.ledger import LedgerSuite
from tidemill.testing.store.models import ModelsSuite
from tidemill.testing.store.outbox import OutboxSuite
from tidemill.testing.store.schedules import SchedulesSuite
from tidemill.testing.store.series import SeriesSuite
from tidemill.testing.store.sessions import SessionsSuite
from tidemill.testing.store.submitting import SubmittingSuite
from tidemill.testing.store.suite import claim_next
from tidemill.testing.store.webhooks import WebhooksSuite
from tidemill.testing.store.wishes import WishesSuite
from tidemill.testing.store.workers import LockedWorkersSuite, WorkersSuite

__all__ = [
    "HOST",
    "LONG",
    "ROWS",
    "SHORT",
    "LockedWorkersSuite",
    "StoreContract",
    "claim_next",
    "new_firing",
    "new_job",
    "new_key",
    "new_pin",
    "new_plan",
    "new_receipt",
    "new_schedule",
    "new_version",
    "new_webhook",
]


class StoreContract(
    SubmittingSuite,
    ClaimingSuite,
    AdmissionSuite,
    WorkersSuite,
    LeasesSuite,
    WishesSuite,
    LedgerSuite,
    SeriesSuite,
    HistorySuite,
    ModelsSuite,
    KeysSuite,
    WebhooksSuite,
    OutboxSuite,
    SessionsSuite,
    SchedulesSuite,
    HandleSuite,
):
    """What every store promises."""
