"""`tidemill run` and `tidemill resume`."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from tidemill.bootstrap.wiring import opened
from tidemill.cli import afar
from tidemill.cli.asking import Trust, asker
from tidemill.cli.backend import address, chosen
from tidemill.cli.options import Server
from tidemill.cli.output import people
from tidemill.cli.progress import ProgressView
from tidemill.cli.submitting import print_submitted
from tidemill.cli.summary import ending_of, print_ending, print_nothing_new, print_preview
from tidemill.cli.words import save_spec, takes_spec
from tidemill.domain.errors import InvalidSpec, NothingNew
from tidemill.service import jobs, retention, stdin
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

AllowUpgrade = Annotated[bool, typer.Option("--allow-upgrade", help="Go on although libraries changed.")]
AllowRejected = Annotated[bool, typer.Option("--allow-rejected", help="Exit with 0 even if rows were rejected.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@takes_spec
def run(
    spec: JobSpec,
    trust: Trust = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an unfinished job at the output and start over.")
    ] = False,
    allow_upgrade: AllowUpgrade = False,
    allow_rejected: AllowRejected = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the job as a file that `tidemill run` takes, and stop.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and preview, write nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it for a worker and stop, as `submit` does.")] = False,
    server: Server = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score files with a model, here and now.

    Without [b]-o[/] it previews: does the model fit the input, what do predictions look like, how long
    will it take. The same command after a crash goes on where it stopped; after success it says so.
    With [b]--server[/] a service does the work: it is sent the input, and the result comes to -o.

      tidemill run model.txt 'customers/*.parquet' -o scores/
      tidemill run model.skops data.csv.gz -o scores.csv --id customer_id
      tidemill run churn@champion data.parquet -o scores/ --server http://mill:8642
      cat data.jsonl | tidemill run model.txt - -o scores/
      tidemill run model.txt @list-of-files.txt -o scores/
      tidemill run model.txt arriving/ -o scores/ --only-new
      tidemill run job.yaml
    """
    if save is not None:
        save_spec(spec, save)
        return
    if detach:
        with chosen(server) as backend, ProgressView(quiet=quiet or json) as view:
            status = backend.jobs_submit(spec, moved=view.sent)
            print_submitted(backend, status, as_json=json)
        return
    url = address(server)
    if url is not None:
        _refuse_here_only(trust=trust, restart=restart, allow_upgrade=allow_upgrade, dry_run=dry_run)
        with chosen(url) as backend, ProgressView(quiet=quiet or json) as view:
            ending = afar.run(backend, spec, view)
        raise typer.Exit(print_ending(ending, as_json=json, allow_rejected=allow_rejected))
    with opened() as context:
        spec = _with_stdin(context, spec)
        options = jobs.RunOptions(
            restart=restart, allow_upgrade=allow_upgrade, ask_trust=asker(trust, json), stop_softly=_on_interrupt
        )
        if spec.output is None or dry_run:
            answer = jobs.preview(context, spec, options)
            print_preview(answer, spec, _command_line(), as_json=json)
            return
        try:
            with ProgressView(quiet=quiet or json) as view, _interrupts(view):
                outcome = jobs.run(context, spec, [view], options)
        except NothingNew as exc:
            print_nothing_new(exc, as_json=json)
            return
        code = print_ending(ending_of(context, outcome), as_json=json, allow_rejected=allow_rejected)
    raise typer.Exit(code)


def _with_stdin(context: Context, spec: JobSpec) -> JobSpec:
    """The spec with the file that keeps what was piped in, in the place of `-`."""
    if stdin.STDIN not in spec.input.path:
        return spec
    if sys.stdin.isatty():
        raise InvalidSpec(
            "The input - is standard input, but nothing is piped in.", remedy="Pipe data in, or name files."
        )
    retention.sweep_stdin(context, datetime.now(UTC))
    kept = str(stdin.spooled(context, sys.stdin.buffer))
    paths = [kept if path == stdin.STDIN else path for path in spec.input.path]
    return spec.model_copy(update={"input": spec.input.model_copy(update={"path": paths})})


def _refuse_here_only(**flags: bool) -> None:
    """Flags that mean nothing to a service must not be swallowed."""
    for name, given in flags.items():
        if given:
            flag = f"--{name.replace('_', '-')}"
            raise InvalidSpec(
                f"{flag} is for runs on this machine; a service has its own rules.",
                remedy=f"Leave out {flag}, or work here with --server local.",
            )


def resume(
    job: Annotated[str, typer.Argument(help="Job id, or the end of one.")],
    allow_upgrade: AllowUpgrade = False,
    trust: Trust = False,
    allow_rejected: AllowRejected = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with an unfinished job here. One of a service goes on by `tidemill jobs resume`.

    tidemill resume job_1jk9w3x2tq8m4c0z
    """
    with opened() as context:
        options = jobs.RunOptions(allow_upgrade=allow_upgrade, ask_trust=asker(trust, json), stop_softly=_on_interrupt)
        with ProgressView(quiet=quiet or json) as view, _interrupts(view):
            outcome = jobs.resume(context, job, [view], options)
        code = print_ending(ending_of(context, outcome), as_json=json, allow_rejected=allow_rejected)
    raise typer.Exit(code)


def _command_line() -> str:
    return shlex.join(["tidemill", *sys.argv[1:]])


_stop: list[Callable[[], None]] = []


def _on_interrupt(stop: Callable[[], None]) -> None:
    _stop.append(stop)


@contextmanager
def _interrupts(view: ProgressView) -> Iterator[None]:
    """Ctrl-C once: finish what is in flight and keep it. Twice: now."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        people.print("\n[bold]stopping[/] after what is in flight; press Ctrl-C again to stop now")
        if not _stop:
            raise KeyboardInterrupt
        _stop[-1]()

    before = signal.signal(signal.SIGINT, first)
    terminated = signal.signal(signal.SIGTERM, first)
    try:
        yield
    except KeyboardInterrupt:
        view.stopped()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminated)
        _stop.clear()
