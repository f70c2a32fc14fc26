"""What people say in Python as a job spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from pydantic import ValidationError

from tidemill.wire.spec import JobSpec, invalid_words

Words = str | PathLike[str]


def parsed(
    model: Words | JobSpec | Mapping[str, Any],
    input: Words | Sequence[Words] | None,
    output: Words | None,
    more: Mapping[str, Any],
) -> JobSpec:
    """The spec of a model, an input, an output and further words; or of a whole one. Raises InvalidSpec."""
    words: dict[str, Any] = {}
    if isinstance(model, JobSpec):
        words = model.model_dump(mode="json", exclude_unset=True)
    elif isinstance(model, Mapping):
        words = dict(model)
    else:
        words["model"] = fspath(model)
    words |= {name: value for name, value in more.items() if name not in ("input_spec", "output_spec")}
    if input is not None or "input_spec" in more:
        words["input"] = {**more.get("input_spec", {}), **({} if input is None else {"path": _paths(input)})}
    if output is not None:
        words["output"] = {**more.get("output_spec", {}), "path": fspath(output)}
    try:
        return JobSpec.model_validate(words)
    except ValidationError as exc:
        raise invalid_words(exc) from exc


def _paths(value: Words | Sequence[Words]) -> list[str]:
    return [fspath(value)] if isinstance(value, str | PathLike) else [fspath(path) for path in value]
