"""Job specs that hold templates: which words may, and the spec of one due time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tidemill.domain import templates
from tidemill.domain.errors import InvalidSpec
from tidemill.wire.spec import JobSpec

_WORDS = "name, input.path, output.path and the values of labels"


def spec_at(spec: JobSpec, due: datetime, zone: str) -> JobSpec:
    """The spec of the job that is due then: its templates are replaced. Raises InvalidSpec."""

    def at(text: str) -> str:
        return templates.render(text, due, zone)

    changes: dict[str, Any] = {
        "input": spec.input.model_copy(update={"path": [at(path) for path in spec.input.path]}),
        "labels": {key: at(value) for key, value in spec.labels.items()},
    }
    if spec.name is not None:
        changes["name"] = at(spec.name)
    if spec.output is not None:
        changes["output"] = spec.output.model_copy(update={"path": at(spec.output.path)})
    rendered = spec.model_copy(update=changes)
    for where, text in _texts(rendered.model_dump(mode="json", exclude={"name", "labels"}), ""):
        if templates.has_template(text) and where not in ("input.path", "output.path"):
            raise InvalidSpec(f"{where} holds a template: {text!r}.", remedy=f"Templates may stand in {_WORDS}.")
    return rendered


def has_template(spec: JobSpec) -> bool:
    """Whether jobs of different due times differ in what they read or write."""
    places = [*spec.input.path, *([spec.output.path] if spec.output else [])]
    return any(templates.has_template(place) for place in places)


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, where)
