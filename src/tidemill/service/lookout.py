"""Looking whether what a schedule waits for has happened."""

from __future__ import annotations

from tidemill.domain.access import Principal
from tidemill.domain.errors import InvalidSpec, NothingNew
from tidemill.domain.lookout import AliasMoved, Lookout, NewFiles
from tidemill.domain.model import split_reference
from tidemill.service import models, series
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec, SeriesSpec

SETTLE = "1m"
"""What a schedule that waits for new files takes for granted of files: nobody is there to look at each."""


def look(context: Context, who: Principal, trigger: Lookout, spec: JobSpec) -> str:
    """What is there now, in the words of `Lookout.seen`; "" if that is nothing to fire for.

    Slow: the input of a series is listed, in a child. Raises NotFound, NotTrusted, AlreadyScored, SeriesBusy.
    """
    match trigger:
        case AliasMoved():
            return str(models.resolve(context, who, spec.model).version)
        case NewFiles():
            try:
                return series.find_new(context, who, spec).key
            except NothingNew:
                return ""
    raise TypeError(f"no use case looks for {trigger.event}")


def prepared(context: Context, who: Principal, trigger: Lookout, spec: JobSpec, name: str) -> tuple[Lookout, JobSpec]:
    """The trigger and the spec of a schedule of this name as they are stored. Raises InvalidSpec, NotFound."""
    match trigger:
        case NewFiles() if spec.input.series is None:
            words = spec.input.model_copy(update={"series": SeriesSpec(name=name, settle=SETTLE)})
            return trigger, spec.model_copy(update={"input": words})
        case AliasMoved():
            _check_alias(spec)
            # What it points at today is not news.
            return trigger.after(look(context, who, trigger, spec)), spec
    return trigger, spec


def _check_alias(spec: JobSpec) -> None:
    reference = split_reference(spec.model)
    if reference is None or reference[1].isdigit():
        raise InvalidSpec(
            f"{spec.model} is no alias of a registered model, so it never moves.",
            remedy="Name the model as NAME@ALIAS, such as churn@champion, or as NAME@latest.",
        )
    if spec.input.series is not None:
        raise InvalidSpec(
            "When an alias moves everything is scored again, and a job of a series scores only what is new.",
            remedy="Leave the series out.",
        )
