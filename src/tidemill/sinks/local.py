"""A folder or file on this machine: published by one rename, replaced by one exchange.

Beside the output `scores/` (or `scores.parquet`) lie `scores.rejected/`, `scores.manifest.json` and,
while a job works, hidden: `.scores.tidemill/` (staging), `.scores.tidemill.claim` and `.scores.tidemill.lock`.
They are named without the ending of a file, so `scores/`, `scores.parquet` and `scores.csv` share them: only one of
such outputs can be there, and only one job writes any of them.
Who holds the claim owns the whole staging folder. The order of publishing is data, rejected rows,
manifest: so a manifest is never there without its files, and a job is published if its manifest is.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from tidemill.domain.errors import Damaged, InvalidSpec, LeaseLost, OutputBusy, OutputExists, OutputUnwritable
from tidemill.domain.receipt import Part, PartKind
from tidemill.durable.files import (
    fsync_folder,
    make_folder,
    remove_file,
    remove_tree,
    replacing,
    translated,
    write_file,
)
from tidemill.durable.locks import FileLock, is_locked
from tidemill.durable.place import Move, has_begun, inode_of, link_or_copy, plan_move, put, undo
from tidemill.durable.rename import RenameSupport, probe, rename_noreplace
from tidemill.ports.sink import Claim, OutputState, Sink, StagedFile

Mode = Literal["error", "overwrite", "append"]

_COMPRESSIONS = (".gz", ".zst")
_STAGING_FOLDERS = ("plan", "spool", "parts", "out")
_CLAIM = "claim.json"
_JOURNAL = "journal.json"
_MANIFEST = "manifest.json"
_DIGITS = 5
_FIELDS = ("kind", "name", "rows", "size_bytes", "sha256")
_KINDS: tuple[PartKind, PartKind] = ("predictions", "rejected")


class LocalSink(Sink):
    """One output folder or file.

    `suffix` is the ending of part names (".parquet", ".csv.gz"); with `single_file` the output is one
    file. An output that is an empty folder counts as free. Symbolic links in the path of the output's
    parent are followed once, when the sink is made; an output that itself is a link is never replaced.
    """

    name: ClassVar[str] = "local"

    def __init__(
        self,
        output: str,
        *,
        mode: Mode,
        suffix: str,
        single_file: bool,
        lock_wait_seconds: float = 60.0,
    ) -> None:
        if single_file and mode == "append":
            raise InvalidSpec(
                f"Rows cannot be appended to the single file {output}.",
                remedy="Use a folder as output, or --mode overwrite.",
            )
        absolute = Path(os.path.abspath(output))
        if not absolute.name:
            raise InvalidSpec(f"{output!r} names no file or folder.", remedy="Name a folder or file to write.")
        self.mode = mode
        self.suffix = suffix
        self.single_file = single_file
        self.lock_wait_seconds = lock_wait_seconds
        self.parent = Path(os.path.realpath(absolute.parent))
        self.target = self.parent / absolute.name
        base, ending = _split(absolute.name, suffix) if single_file else (absolute.name, "")
        self.rejected_target = self.parent / f"{base}.rejected{ending}"
        self.manifest_target = self.parent / f"{base}.manifest.json"
        self._hidden = self.parent / f".{base}.tidemill"
        self._claim_path = self.parent / f".{base}.tidemill.claim"
        self._lock_path = self.parent / f".{base}.tidemill.lock"
        self._support: RenameSupport | None = None

    def staging(self, job_id: str) -> str:
        return os.fspath(self._staging(job_id))

    def look(self) -> OutputState:
        claim, manifest = self._read_claim(), self._read_manifest()
        other = self._other_output(manifest)
        return OutputState(
            occupied=self._occupied(self.target),
            manifest=manifest if other is None else None,
            other_output=other,
            claim=claim,
            claim_live=claim is not None and _is_live(claim),
        )

    def holds(self, job_id: str) -> bool:
        claim = self._read_claim()
        if claim is None:
            return os.path.lexists(self._staging(job_id)) or os.path.lexists(self._lock_path)
        return claim.job_id == job_id or os.path.lexists(self._staging(job_id))

    def prepare(self, claim: Claim, *, replace: Claim | None) -> None:
        with translated(self.target):
            make_folder(self.parent)
            with self._locked():
                found = self._read_claim()
                if found is not None and found != claim:
                    self._check_takeover(found, claim, replace)
                if found is None or found.job_id != claim.job_id:
                    self._undo_others(claim.job_id)
                    self._check_place()
                self._write_claim(claim)
                self._remove_other_staging(claim.job_id)
                for folder in _STAGING_FOLDERS:
                    make_folder(self._staging(claim.job_id) / folder)

    def sweep(self, job_id: str, keep: Callable[[str], bool]) -> None:
        folder = self._staging(job_id) / "parts"
        with translated(folder):
            for name in os.listdir(folder):
                if not keep(f"parts/{name}"):
                    remove_file(folder / name)
            fsync_folder(folder)

    def assemble(self, job_id: str, parts: Iterable[tuple[int, Part]]) -> list[StagedFile]:
        by_kind: dict[PartKind, list[Part]] = {kind: [] for kind in _KINDS}
        for _, part in parts:
            by_kind[part.kind].append(part)
        files: list[StagedFile] = []
        with translated(self.target):
            for kind, found in by_kind.items():
                files += self._assemble(job_id, kind, found)
            fsync_folder(self._staging(job_id) / "parts")
            fsync_folder(self._staging(job_id) / "out")
        return files

    def journal(self, job_id: str) -> dict[str, Any]:
        planned = {kind: plan_move(self._staged(job_id, kind), self._target(kind)) for kind in _KINDS}
        if planned["predictions"].new is None:
            raise OutputUnwritable(
                f"{planned['predictions'].staged} is not there: the output was not assembled.",
                remedy="Run the same command again: what was committed is kept.",
            )
        return {kind: {"new": move.new, "old": move.old} for kind, move in planned.items()}

    def publish(
        self, job_id: str, manifest: dict[str, Any], journal: dict[str, Any], is_current: Callable[[], bool]
    ) -> None:
        with translated(self.target), self._locked(is_current):
            if not is_current():
                raise LeaseLost(f"Another process took over {job_id}; it publishes {self.target}.")
            if _job_of(self._read_manifest()) == job_id:
                fsync_folder(self.parent)
                return
            moves = self._moves(job_id, journal)
            self._stage_manifest(job_id, manifest, moves)
            try:
                self._make_way(moves)
                for move in moves:
                    put(move, self._renames(job_id), replace=self.mode != "error")
                self._put_manifest(job_id)
            except FileExistsError as exc:
                self._undo(moves, self._renames(job_id))
                raise OutputExists(
                    f"Something appeared at {exc.filename2 or exc.filename} while the job ran; nothing was published.",
                    remedy="Move it away, or use --mode overwrite, then run the same command again.",
                ) from exc

    def published(self, job_id: str) -> dict[str, Any] | None:
        manifest = self._read_manifest()
        if manifest is None or _job_of(manifest) != job_id:
            return None
        return manifest if all(self._is_there(entry) for entry in manifest["files"]) else None

    def finish(self, job_id: str) -> None:
        self._clean_up(job_id)

    def discard(self, job_id: str) -> None:
        self._clean_up(job_id)

    # -- the claim

    def _read_claim(self) -> Claim | None:
        try:
            return Claim(**json.loads(self._claim_path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as exc:
            raise OutputBusy(
                f"{self._claim_path} is no claim that this version understands.",
                remedy="If no job writes this output, remove that file.",
            ) from exc

    def _check_takeover(self, found: Claim, claim: Claim, replace: Claim | None) -> None:
        if found != replace or (found.job_id != claim.job_id and _is_live(found)):
            raise self._busy(found)

    def _write_claim(self, claim: Claim) -> None:
        # The lock makes us the only one, and the scratch file lies where the next owner sweeps.
        make_folder(self._hidden)
        scratch = self._hidden / _CLAIM
        write_file(scratch, json.dumps(claim.to_json()).encode())
        os.rename(scratch, self._claim_path)
        fsync_folder(self.parent)

    def _busy(self, claim: Claim | None) -> OutputBusy:
        if claim is None:
            return OutputBusy(f"Another process works on {self.target} just now.", remedy="Try again in a minute.")
        holder = f"job {claim.job_id} (process {claim.pid} on {claim.host}, since {claim.started_at})"
        shared = (
            "" if Path(claim.output).name == self.target.name else f"shares its manifest with {claim.output}, which "
        )
        return OutputBusy(
            f"{self.target} {shared}is held by {holder}.",
            remedy="Wait for that job, cancel it, or choose another output; "
            f"if its host is gone for good, remove {self._claim_path}.",
        )

    @contextmanager
    def _locked(self, is_current: Callable[[], bool] = lambda: True) -> Iterator[None]:
        lock = FileLock(self._lock_path)
        deadline = time.monotonic() + self.lock_wait_seconds
        pause_seconds = 0.05
        while not lock.try_lock():
            if time.monotonic() >= deadline:
                raise self._busy(self._read_claim())
            time.sleep(pause_seconds)
            pause_seconds = min(1.0, pause_seconds * 2)
            if not is_current():
                raise LeaseLost(f"Another process took over while {self.target} was locked.")
        try:
            yield
        finally:
            lock.unlock(unlink=not os.path.lexists(self._claim_path))

    # -- places

    def _staging(self, job_id: str) -> Path:
        return self._hidden / job_id

    def _staged(self, job_id: str, kind: PartKind) -> Path:
        name = "data" if kind == "predictions" else "rejected"
        return self._staging(job_id) / "out" / (f"{name}{self.suffix}" if self.single_file else name)

    def _target(self, kind: PartKind) -> Path:
        return self.target if kind == "predictions" else self.rejected_target

    def _occupied(self, path: Path) -> bool:
        return os.path.lexists(path) and not (not self.single_file and _is_empty_folder(path))

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            manifest = json.loads(self.manifest_target.read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None
        whole = isinstance(manifest, dict) and "job_id" in manifest and isinstance(manifest.get("files"), list)
        return manifest if whole else None

    def _other_output(self, manifest: Mapping[str, Any] | None) -> str | None:
        """The output that the manifest tells of, if it is not ours. Only names count: folders may be moved."""
        name = self.target.name if manifest is None else Path(manifest.get("output", self.target)).name
        return None if name == self.target.name else os.fspath(self.parent / name)

    def _is_there(self, entry: Mapping[str, Any]) -> bool:
        try:
            return bool((self.parent / entry["name"]).stat().st_size == entry["size_bytes"])
        except OSError:
            return False

    def _check_place(self) -> None:
        """Refuse early what `publish` would refuse, before anything was computed."""
        other = self._other_output(self._read_manifest())
        if other is not None:
            raise OutputExists(
                f"{self.manifest_target} lists the files of {other}; it cannot list those of {self.target} as well.",
                remedy=f"Choose another name for the output, or move {other} and that manifest away.",
            )
        if self.mode == "error":
            self._check_free(self.target, self.rejected_target, self.manifest_target)
            return
        self._check_replaceable()
        if self.mode == "append":
            for kind in _KINDS:
                self._published_files(kind)

    def _check_free(self, *paths: Path) -> None:
        for path in paths:
            if self._occupied(path):
                raise OutputExists(
                    f"{path} is there already.", remedy="Choose another output, or use --mode overwrite or append."
                )

    def _check_replaceable(self) -> None:
        for path in (self.target, self.rejected_target):
            if not self._occupied(path):
                continue
            if path.is_symlink():
                raise OutputExists(
                    f"{path} is a symbolic link, which a rename would replace instead of what it points to.",
                    remedy=f"Give {os.path.realpath(path)} as output.",
                )
            if path.is_dir() == self.single_file:
                kinds = ("folder", "file") if self.single_file else ("file", "folder")
                raise OutputExists(
                    f"{path} is a {kinds[0]}, but the output is a {kinds[1]}.",
                    remedy="Move it away, or choose another output.",
                )
            if not self.single_file and self._read_manifest() is None:
                self._check_only_data(path)

    def _check_only_data(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                data = entry.name.endswith(self.suffix) or entry.name.startswith(("_", "."))
                if not (data and entry.is_file(follow_symlinks=False)):
                    raise OutputExists(
                        f"{folder} was not written by Tidemill and holds {entry.name}, which is no {self.suffix} file.",
                        remedy="Choose another output, or remove that folder yourself.",
                    )

    # -- assembling

    def _report(self, job_id: str, parts: list[Part]) -> list[StagedFile]:
        files = []
        for part in parts:
            if part.kind == "rejected" and not part.rows:
                continue
            path = self._staged(job_id, part.kind)
            if self._staging(job_id) / part.name != path or path.stat().st_size != part.size_bytes:
                raise OutputUnwritable(
                    f"{path} is not the file of {part.size_bytes} bytes that was made for {part.name}.",
                    remedy="Run the same command again: what was committed is kept.",
                )
            files.append(_staged_file(part, self._target(part.kind).name))
        return files

    def _assemble(self, job_id: str, kind: PartKind, parts: list[Part]) -> list[StagedFile]:
        if self.single_file:
            files = self._report(job_id, parts)
            if not files:
                remove_file(self._staged(job_id, kind))
            return files
        return self._assemble_folder(job_id, kind, parts)

    def _assemble_folder(self, job_id: str, kind: PartKind, parts: list[Part]) -> list[StagedFile]:
        before = self._published_files(kind) if self.mode == "append" else []
        added = [part for part in parts if part.rows]
        if kind == "predictions" and not added and not before:
            added = parts[:1]
        folder = self._staged(job_id, kind)
        if not before and not added:
            remove_tree(folder)
            return []
        if not folder.is_dir():
            # Not its parents: without them the job has ended, and whoever is here has lost it.
            folder.mkdir()
            fsync_folder(folder.parent)
        digits = max(_DIGITS, len(str(len(before) + len(added) - 1)))
        files: list[StagedFile] = []
        for old in before:
            name = f"part-{len(files):0{digits}d}{self.suffix}"
            link_or_copy(self.parent / old.name, folder / name)
            files.append(_staged_file(old, f"{self._target(kind).name}/{name}"))
        for part in added:
            name = f"part-{len(files):0{digits}d}{self.suffix}"
            _move(self._staging(job_id) / part.name, folder / name, part.size_bytes)
            files.append(_staged_file(part, f"{self._target(kind).name}/{name}"))
        expected = {Path(file.name).name for file in files}
        for name in os.listdir(folder):
            if name not in expected:
                remove_tree(folder / name)
        fsync_folder(folder)
        return files

    def _published_files(self, kind: PartKind) -> list[StagedFile]:
        """What the manifest lists of a kind, if that is exactly what is there."""
        folder = self._target(kind)
        manifest = self._read_manifest()
        there = set(os.listdir(folder)) if self._occupied(folder) else set()
        entries = [entry for entry in manifest["files"] if entry["kind"] == kind] if manifest else []
        listed = [StagedFile(**{field: entry[field] for field in _FIELDS}) for entry in entries]
        differing = there.symmetric_difference(Path(file.name).name for file in listed)
        differing |= {Path(entry["name"]).name for entry in entries if not self._is_there(entry)}
        if differing:
            some = ", ".join(sorted(differing)[:3])
            raise Damaged(
                f"Cannot append: {folder} and {self.manifest_target.name} disagree about {some}.",
                remedy="Choose another output, or use --mode overwrite.",
            )
        if any(not file.name.endswith(self.suffix) for file in listed):
            raise InvalidSpec(
                f"Cannot append {self.suffix} files: {folder} holds {listed[0].name}.",
                remedy="Use the format and compression of the files that are there.",
            )
        return listed

    # -- publishing

    def _moves(self, job_id: str, journal: Mapping[str, Any]) -> list[Move]:
        return [Move(staged=self._staged(job_id, kind), target=self._target(kind), **journal[kind]) for kind in _KINDS]

    def _renames(self, job_id: str) -> RenameSupport:
        if self._support is None:
            self._support = probe(self._staging(job_id))
        return self._support

    def _stage_manifest(self, job_id: str, manifest: dict[str, Any], moves: list[Move]) -> None:
        # Before the first rename: a full disk must not stop us half-way, and `discard` needs the journal.
        with replacing(self._staging(job_id) / "out" / _MANIFEST) as file:
            for text in json.JSONEncoder(indent=2).iterencode(manifest):
                file.write(text.encode())
            file.write(b"\n")
        journal = [
            {
                "staged": os.path.relpath(move.staged, self._staging(job_id)),
                "target": move.target.name,
                "new": move.new,
                "old": move.old,
            }
            for move in moves
        ]
        support = asdict(self._renames(job_id))
        write_file(self._staging(job_id) / _JOURNAL, json.dumps({"support": support, "moves": journal}).encode())

    def _make_way(self, moves: list[Move]) -> None:
        if any(has_begun(move) for move in moves):
            return
        self._check_place()
        if self.mode != "error":
            return
        for move in moves:
            if _is_empty_folder(move.target):
                os.rmdir(move.target)

    def _put_manifest(self, job_id: str) -> None:
        staged = self._staging(job_id) / "out" / _MANIFEST
        if self.mode == "error":
            rename_noreplace(staged, self.manifest_target, self._renames(job_id))
        else:
            os.rename(staged, self.manifest_target)
        fsync_folder(self.parent)

    def _undo(self, moves: list[Move], support: RenameSupport) -> None:
        for move in reversed(moves):
            undo(move, support)

    # -- cleaning up

    def _clean_up(self, job_id: str) -> None:
        """Remove staging and claim. What an unpublished job has put in place goes back first."""
        if not self.parent.is_dir():
            return
        with translated(self.target), self._locked():
            claim = self._read_claim()
            if claim is not None and claim.job_id != job_id:
                return
            self._undo_others(None)
            self._remove_other_staging(None)
            remove_file(self._claim_path)
            fsync_folder(self.parent)

    def _undo_others(self, keep: str | None) -> None:
        """Put back what jobs without a claim had put in place before they could publish all of it."""
        for job_id in _names_in(self._hidden):
            if job_id not in (keep, _job_of(self._read_manifest())):
                self._undo_begun(job_id)

    def _undo_begun(self, job_id: str) -> None:
        staging = self._staging(job_id)
        try:
            journal = json.loads((staging / _JOURNAL).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return
        moves = [
            Move(
                staged=staging / entry["staged"],
                target=self.parent / entry["target"],
                new=entry["new"],
                old=entry["old"],
            )
            for entry in journal["moves"]
        ]
        self._undo(moves, RenameSupport(**journal["support"]))
        remove_file(staging / _JOURNAL)
        fsync_folder(staging)

    def _remove_other_staging(self, keep: str | None) -> None:
        for name in _names_in(self._hidden):
            if name != keep:
                remove_tree(self._hidden / name)
        if keep is None:
            remove_tree(self._hidden)


def _split(name: str, suffix: str) -> tuple[str, str]:
    """A file name without and with its format and compression endings."""
    if name.endswith(suffix) and name != suffix:
        return name[: -len(suffix)], suffix
    stem, compression = os.path.splitext(name)
    if compression not in _COMPRESSIONS:
        stem, compression = name, ""
    base, ending = os.path.splitext(stem)
    return base, ending + compression


def _is_live(claim: Claim) -> bool:
    return claim.host != socket.gethostname() or is_locked(claim.worker_lock)


def _is_empty_folder(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is None


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _job_of(manifest: Mapping[str, Any] | None) -> str | None:
    return None if manifest is None else manifest["job_id"]


def _staged_file(part: Part | StagedFile, name: str) -> StagedFile:
    return StagedFile(kind=part.kind, name=name, rows=part.rows, size_bytes=part.size_bytes, sha256=part.sha256)


def _move(source: Path, target: Path, size_bytes: int) -> None:
    """Rename a part; a dead attempt may have done it, or one that does not know yet that it lost the job."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if inode_of(target) is None or target.stat().st_size != size_bytes:
            raise OutputUnwritable(
                f"The committed part {source} is gone.", remedy="Discard the job with --restart and run it again."
            ) from None
