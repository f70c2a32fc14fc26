"""What a model check found: how every trial came out, and what follows from that for a job.

Trials are evidence: a difference proves that a model breaks a claim, no difference proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tidemill.domain.signature import ModelInfo

SAMPLE_ROWS = 500
"""How many rows a check draws unless somebody says so."""

THREADS = 4
"""How many threads share the model in that trial."""

REFERENCE = "forwards"
TRIALS = {
    REFERENCE: "forwards, all rows in one batch",
    "twice": "twice in one process",
    "fresh": "in a fresh interpreter",
    "reversed": "backwards",
    "ones": "in batches of 1",
    "sevens": "in batches of 7",
    "threads": f"from {THREADS} threads at once",
}
"""The trials in their order, as people read them. The first gives the predictions that others are held to."""

Answer = Literal["reference", "same", "differs", "failed", "lost"]
"""`failed`: the model raised an error. `lost`: its process died, or hung and was killed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a trial's predictions first differ from those of the reference, and by how much overall."""

    file: str
    row: int
    """Number in the file, from 0."""
    column: str
    expected: Any
    found: Any
    rows: int
    """How many rows of the sample differ."""
    largest: float | None
    """Largest difference between two numbers; None if no numbers differ."""

    def __str__(self) -> str:
        by = "" if self.largest is None else f", differences up to {self.largest:.3g}"
        return (
            f"{self.file}, row {self.row:,}, column {self.column!r}: {self.found!r}, not {self.expected!r}"
            f" ({self.rows:,} {'row differs' if self.rows == 1 else 'rows differ'}{by})"
        )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How one trial came out."""

    name: str
    answer: Answer
    difference: Difference | None = None
    problem: str | None = None
    """What the model raised, or how its process ended."""

    @property
    def label(self) -> str:
        return TRIALS[self.name]

    @property
    def broke(self) -> bool:
        """Whether it has no predictions to compare."""
        return self.answer in ("failed", "lost")

    @property
    def why(self) -> str:
        """The difference or the problem, for people; empty if there is none."""
        return str(self.difference or self.problem or "")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Trial:
        difference = data.get("difference")
        return Trial(**{**data, "difference": Difference(**difference) if difference else None})


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The rows that trials predict, spread over the input."""

    files: int
    """Of the input."""
    files_read: int
    rows: int
    rejected: int
    """Rows that were drawn too, but could not be read, converted or predicted."""
    rejections: Sequence[Mapping[str, Any]] = ()
    """A few of those: file, row, stage, error, message, and how many rows (`rows`) have that reason."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a check of one model came to."""

    model: str
    digest: str
    info: ModelInfo
    """What the model's flavor claims of it."""
    sample: Sample
    trials: Sequence[Trial]
    """Those that ran, in the order of `TRIALS`: only the reference if that broke."""

    def trial(self, name: str) -> Trial | None:
        """The one of this name, if it ran."""
        return next((trial for trial in self.trials if trial.name == name), None)

    @property
    def deterministic(self) -> bool | None:
        """Whether the same rows got the same predictions again. None, as below: it cannot be told."""
        return self._all_same("twice", "fresh")

    @property
    def order_free(self) -> bool | None:
        """Whether a row's prediction did not depend on where among the others it stood."""
        return self._all_same("reversed") if self.deterministic else None

    @property
    def batch_invariant(self) -> bool | None:
        """Whether a row's prediction did not depend on how many others were beside it."""
        return self._all_same("ones", "sevens") if self.deterministic else None

    @property
    def thread_safe(self) -> bool | None:
        """Whether threads that shared the model got what one alone gets."""
        threads = self.trial("threads")
        return threads.answer == "same" if threads and self.deterministic else None

    @property
    def ok(self) -> bool:
        return not self.defects

    @property
    def defects(self) -> list[str]:
        """What is wrong with the model: it breaks, or is not what its flavor or its class claims."""
        return list(self._defects())

    @property
    def advice(self) -> list[str]:
        """What follows for a job with this model."""
        return [] if self.trials[0].broke else list(self._advice())

    def to_json(self) -> dict[str, Any]:
        """For programs: everything, with the properties and what follows."""
        return {
            "model": self.model,
            "digest": self.digest,
            "flavor": self.info.flavor,
            "claims": {
                "layout": self.info.layout,
                "batch_invariant": self.info.batch_invariant,
                "batch_rows": self.info.batch_rows,
                "rows_per_chunk": self.info.rows_per_chunk,
            },
            "sample": asdict(self.sample),
            "trials": [trial.to_json() for trial in self.trials],
            "deterministic": self.deterministic,
            "order_free": self.order_free,
            "batch_invariant": self.batch_invariant,
            "thread_safe": self.thread_safe,
            "defects": self.defects,
            "advice": self.advice,
            "ok": self.ok,
        }

    def _all_same(self, *names: str) -> bool | None:
        """None if one of them broke or did not run, and none differed."""
        answers = {trial.answer if (trial := self.trial(name)) else None for name in names}
        if "differs" in answers:
            return False
        return True if answers == {"same"} else None

    def _differing(self, *names: str) -> list[Trial]:
        trials = (self.trial(name) for name in names)
        return [trial for trial in trials if trial and trial.answer == "differs"]

    def _defects(self) -> Iterator[str]:
        threads_promised = self.info.layout == "threads"
        for trial in self.trials:
            if trial.broke and (trial.name != "threads" or threads_promised):
                yield f"It breaks {trial.label}."
        if self.deterministic is False:
            first = self._differing("twice", "fresh")[0]
            yield f"It is not deterministic: {first.label} the same rows get other predictions."
        if self.info.batch_invariant and (self.batch_invariant is False or self.order_free is False):
            first = self._differing("ones", "sevens", "reversed")[0]
            yield f"It claims to be batch-invariant, but {first.label} rows get other predictions."
        if threads_promised and self.thread_safe is False and self._differing("threads"):
            yield f"It claims that threads may share it, but {TRIALS['threads']} rows get other predictions."

    def _advice(self) -> Iterator[str]:
        if self.deterministic is False:
            yield "repeats: a job that is run again gives other predictions, and one that goes on after a crash a mix"
        yield f"layout: {self._layout()}"
        yield f"batches: {self._batches()}"
        if self.order_free is False:
            yield (
                f"order: predictions change{self._by('reversed')} with the rows around them: the same row elsewhere in"
                " the input, or beside a rejected one, gets another"
            )

    def _by(self, *names: str) -> str:
        """By how much these trials differ: " by up to 45.9"; empty if not in numbers."""
        differences = (trial.difference for trial in self._differing(*names))
        gaps = [each.largest for each in differences if each and each.largest is not None]
        return f" by up to {max(gaps):.3g}" if gaps else ""

    def _layout(self) -> str:
        if self.info.layout == "threads":
            if self.thread_safe is False:
                return "until that is mended say --scorers N: each of them has a model and a thread of its own"
            return "a job runs one process with a thread for each core; they share the model"
        text = "a job runs a process for each core, each with a model of its own"
        if self.thread_safe and self.info.flavor == "python":
            return (
                f"{text}; no threads clashed here, so if nothing in the class is shared between calls, threads_safe ="
                " True saves memory"
            )
        return f"{text}, and must: threads that share it clash" if self.thread_safe is False else text

    def _batches(self) -> str:
        rows = f"a job gives the model {self.info.batch_rows:,} rows at once, or fewer if they are wide"
        if self.batch_invariant is False:
            return (
                f"{rows}; predictions change{self._by('ones', 'sevens')} with the size of the batch, so jobs repeat"
                " each other only with the same --batch-rows and --rows-per-chunk"
            )
        if self.batch_invariant and self.info.batch_invariant:
            return f"{rows}; --batch-rows and --rows-per-chunk change no prediction"
        if self.batch_invariant:
            return f"{rows}; the size changed no prediction here, but that is not promised for all rows"
        return rows
