"""Entry points of children that look at files and read no data: what they import is little, so they start soon."""

from __future__ import annotations

from tidemill.engine import listing

facts = listing.facts
