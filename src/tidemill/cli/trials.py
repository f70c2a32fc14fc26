"""What `tidemill models check MODEL INPUT` says."""

from __future__ import annotations

from rich.markup import escape

from tidemill.cli.output import EXIT_DONE, EXIT_FAILED, counted, people, print_json, print_rejections, print_table
from tidemill.domain.trials import Findings

_ANSWERS = {
    "reference": "the others are held to these predictions",
    "same": "the same",
    "differs": "other predictions",
    "failed": "the model raised an error",
    "lost": "the process was lost",
}


def print_findings(found: Findings, *, as_json: bool) -> int:
    """Say what a check came to; returns the exit code."""
    if as_json:
        print_json(found.to_json())
    else:
        _print_for_people(found)
    return EXIT_DONE if found.ok else EXIT_FAILED


def _print_for_people(found: Findings) -> None:
    print_table(["trial", "outcome"], [(trial.label, _ANSWERS[trial.answer]) for trial in found.trials])
    for trial in found.trials:
        if trial.why:
            # What a process printed before it died follows in more lines; they are in the JSON.
            people.print(f"  [yellow]{escape(trial.label)}:[/] {escape(trial.why.splitlines()[0])}")
    sample = found.sample
    people.print(
        f"{counted(sample.rows, 'row')} of {sample.files_read:,} of {counted(sample.files, 'file')}"
        + (f", without {sample.rejected:,} that would be rejected" if sample.rejected else "")
    )
    print_rejections(sample.rejections)
    for defect in found.defects:
        people.print(f"[bold red]defect[/] {escape(defect)}")
    for line in found.advice:
        people.print(f"  [dim]→[/] {escape(line)}")
    if found.ok:
        people.print(f"[bold green]ok[/] {escape(found.model)} ({found.info.flavor}) kept every claim in these trials")
