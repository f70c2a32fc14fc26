"""Writes tests/integration/api/openapi.json, what the REST API promises: on purpose, by this command alone.

python tools/openapi.py
"""

from __future__ import annotations

import json
from pathlib import Path

from tidemill.api.app import described_app

TARGET = Path(__file__).resolve().parents[1] / "tests" / "integration" / "api" / "openapi.json"


def document() -> str:
    """The OpenAPI document as the file holds it: without the version, which changes with every release."""
    told = described_app().openapi()
    told = {**told, "info": {name: value for name, value in told["info"].items() if name != "version"}}
    return json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
    print(f"wrote {TARGET}")
