"""Why a child died, in words."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ALLOCATION_FAILED = ("std::bad_alloc", "MemoryError", "Cannot allocate memory", "out of memory")
_LAST_WORDS = 1_000

MEMORY_REMEDY = "Give it more memory or less to do at a time (fewer scorers, fewer rows per chunk)."


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of a child. `kind` is "died" or "memory", `cause` is for people, `log` the end of what it
    printed. An `orphan` was killed with the zygote and is not to blame; one that was killed from `outside`
    perhaps neither: nobody but the kernel for memory, or a person, sends SIGKILL."""

    kind: str
    cause: str
    log: str = ""
    orphan: bool = False
    outside: bool = False


def explain(code: int, *, log: str, memory_bytes: int | None, oom_kills: int) -> Death:
    """Read an exit code (negative: a signal, as subprocess has it).

    `oom_kills` is how many processes the kernel has killed for memory since the child was forked.
    """
    if code == -signal.SIGKILL and oom_kills > 0:
        return Death(kind="memory", cause="killed by the kernel because the machine ran out of memory", log=log)
    if (code == -signal.SIGABRT or code > 0) and any(word in log[-_LAST_WORDS:] for word in _ALLOCATION_FAILED):
        return Death(kind="memory", cause=out_of_memory(memory_bytes), log=log)
    return Death(kind="died", cause=describe(code), log=log, outside=code == -signal.SIGKILL)


def describe(code: int) -> str:
    """An exit code in words: "killed by SIGSEGV (segmentation fault)", "exited with code 3"."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        meaning = (signal.strsignal(-code) or "").lower()
        if -code == signal.SIGKILL:
            meaning = "somebody killed it, perhaps the kernel because memory ran out"
        return f"killed by {name} ({meaning})"
    return f"killed by signal {-code}"


def out_of_memory(memory_bytes: int | None) -> str:
    """The cause for a failed allocation, naming the bound if there was one."""
    if memory_bytes is None:
        return "ran out of memory"
    return f"ran out of memory: it may use {memory_bytes / 2**20:,.0f} MiB"


def count_oom_kills() -> int:
    """How often this machine's kernel has killed for memory since it started; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
