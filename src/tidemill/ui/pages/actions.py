"""What a person may do to a job with a button: each a post that leads back to a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import RedirectResponse, Response

from tidemill.domain.access import Action, Principal
from tidemill.domain.job import Job, JobState
from tidemill.service import control, submission
from tidemill.service.context import Context
from tidemill.ui.page import Page, Visit
from tidemill.wire.api import JobStatus

_S = JobState


@dataclass(frozen=True, kw_only=True)
class Button:
    """Something to do to a job, and the words that ask whether it is meant."""

    name: str
    label: str
    question: str
    states: frozenset[JobState]
    do: Callable[[Context, Principal, str], Job]
    danger: bool = False


BUTTONS = (
    Button(
        name="retry",
        label="Score rejected rows again",
        question="A new job scores only the rows that this one rejected. This result stays as it is.",
        states=frozenset({_S.SUCCEEDED_WITH_REJECTIONS}),
        do=lambda context, who, job_id: submission.retry(context, who, job_id)[0],
    ),
    Button(
        name="resume",
        label="Resume",
        question="The job goes on from its last committed chunk.",
        states=frozenset({_S.PAUSED, _S.FAILED}),
        do=control.resume,
    ),
    Button(
        name="pause",
        label="Pause",
        question="What is done stays; the job goes on when you resume it.",
        states=frozenset({_S.QUEUED, _S.PLANNING, _S.RUNNING}),
        do=control.pause,
    ),
    Button(
        name="cancel",
        label="Cancel",
        question="Everything this job has done is deleted. It cannot be resumed.",
        states=frozenset({_S.QUEUED, _S.PLANNING, _S.RUNNING, _S.PAUSED, _S.FAILED}),
        do=control.cancel,
        danger=True,
    ),
)


def buttons_of(status: JobStatus) -> list[Button]:
    """Those that make sense now: not what somebody wished already."""
    return [button for button in BUTTONS if status.state in button.states and status.want != button.name]


def _press(button: Button) -> Callable[[Visit], Response]:
    def show(visit: Visit) -> Response:
        job = button.do(visit.context, visit.who, visit.request.path_params["job_id"])
        return RedirectResponse(f"/jobs/{job.id}", status_code=303)

    return show


PAGES = tuple(
    Page(path=f"/jobs/{{job_id}}/{button.name}", show=_press(button), needs=Action.RUN_JOBS, method="POST")
    for button in BUTTONS
)
