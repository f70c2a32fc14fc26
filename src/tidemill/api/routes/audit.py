"""The audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from tidemill.api.access import door, needs
from tidemill.api.dependencies import Here, Limit, Who
from tidemill.domain.access import Action
from tidemill.service import audit
from tidemill.wire.api import AuditPage

router = door("/audit", "audit")


@router.get("")
@needs(Action.READ_AUDIT)
def list_audit(
    context: Here,
    who: Who,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="`next` of the page before.")] = None,
) -> AuditPage:
    """What people of the caller's tenant did, newest first."""
    found = audit.list(context, who, limit=limit + 1, before=before)
    following = str(found[limit - 1].number) if len(found) > limit else None
    return AuditPage(items=[audit.describe(entry) for entry in found[:limit]], next=following)
