"""Words of the command line as a request of the API, with the API's own checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tidemill.domain.errors import InvalidSpec

Request = TypeVar("Request", bound=BaseModel)


def checked(kind: type[Request], words: Mapping[str, Any]) -> Request:
    """The request that these words make. Raises InvalidSpec, naming the words at fault."""
    try:
        return kind.model_validate(words)
    except ValidationError as exc:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in exc.errors()]
        raise InvalidSpec(f"{'; '.join(faults[:3])}.", remedy="See --help.") from exc
