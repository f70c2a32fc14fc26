"""The local sink: its contract, its places, and a kill at every step that it takes on disk."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tidemill.domain.errors import Damaged, InvalidSpec, LeaseLost, OutputBusy, OutputExists, OutputUnwritable
from tidemill.domain.receipt import PartKind
from tidemill.durable import rename
from tidemill.durable.locks import FileLock
from tidemill.ports.sink import Claim, Sink, StagedFile
from tidemill.sinks import local
from tidemill.sinks.local import LocalSink, Mode
from tidemill.testing.sink import JOB, OTHER, SinkContract, manifest_of, publish, stage_part

Support = rename.RenameSupport
FULL = Support(noreplace=True, exchange=True)
NONE = rename.NO_SUPPORT


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    """What a reader sees: nothing hidden, no manifest."""
    found = contents(folder)
    return {name: data for name, data in found.items() if name[0] != "." and not name.endswith("manifest.json")}


class TestLocalSink(SinkContract):
    def place(self, tmp_path: Path) -> Path:
        return tmp_path / "place"

    def make(self, place: Path, mode: str) -> Sink:
        return LocalSink(f"{self.place(place)}/scores/", mode=mode, suffix=".bin", single_file=False)  # type: ignore[arg-type]

    def read(self, place: Path) -> dict[str, bytes]:
        return visible(self.place(place)) if self.place(place).exists() else {}

    def leftovers(self, place: Path) -> list[str]:
        return [path.name for path in self.place(place).iterdir() if path.name.startswith(".")]

    def damage(self, place: Path, name: str) -> None:
        (self.place(place) / name).write_bytes(b"")


class TestLocalSinkWithoutRenames(TestLocalSink):
    """The same on a file system that knows neither of the two renames."""

    @pytest.fixture(autouse=True)
    def _no_support(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "probe", lambda folder: NONE)


def claim_of(job_id: str = JOB, host: str = "nowhere") -> Claim:
    return Claim(
        job_id=job_id,
        store="s",
        host=host,
        pid=7,
        worker_lock="/nowhere",
        output="o",
        started_at="2026-01-01T00:00:00Z",
    )


def make(place: Path, mode: Mode, *, single_file: bool = False) -> LocalSink:
    name = "scores.bin" if single_file else "scores"
    return LocalSink(str(place / name), mode=mode, suffix=".bin", single_file=single_file, lock_wait_seconds=0)


def stage(sink: LocalSink, job_id: str, predictions: bytes, rejected: bytes) -> list[StagedFile]:
    """Two parts of predictions and one of rejected rows, or the files of a single-file output."""
    contents: list[tuple[PartKind, bytes]] = [("predictions", predictions), ("rejected", rejected)]
    parts = []
    for kind, data in contents:
        for chunk in range(1 if sink.single_file or kind == "rejected" else 2):
            part = stage_part(sink, job_id, chunk, kind, len(data), data)
            if sink.single_file:
                name = f"out/{'data' if kind == 'predictions' else 'rejected'}.bin"
                os.rename(Path(sink.staging(job_id)) / part.name, Path(sink.staging(job_id)) / name)
                part = type(part)(**{**vars(part), "name": name})
            parts.append((chunk, part))
    return sink.assemble(job_id, parts)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An output before and after: what publishing may show, and nothing else."""

    mode: Mode
    single_file: bool
    rejected: bytes
    support: Support

    @property
    def before(self) -> dict[str, bytes]:
        if self.mode == "error":
            return {}
        return (
            self._files({"": b"old"}, b"gone") if self.single_file else self._files({"0": b"old", "1": b"old"}, b"gone")
        )

    @property
    def after(self) -> dict[str, bytes]:
        if self.single_file:
            return self._files({"": b"newer"}, self.rejected)
        if self.mode != "append":
            return self._files({"0": b"newer", "1": b"newer"}, self.rejected)
        parts = self._files({"0": b"old", "1": b"old", "2": b"newer", "3": b"newer"}, b"gone")
        return parts | ({"scores.rejected/part-00001.bin": self.rejected} if self.rejected else {})

    def _files(self, data: dict[str, bytes], rejected: bytes) -> dict[str, bytes]:
        if self.single_file:
            return {"scores.bin": data[""]} | ({"scores.rejected.bin": rejected} if rejected else {})
        found = {f"scores/part-0000{number}.bin": each for number, each in data.items()}
        return found | ({"scores.rejected/part-00000.bin": rejected} if rejected else {})


CASES = [
    Case(mode=mode, single_file=single_file, rejected=rejected, support=support)
    for mode, single_file, rejected, support in itertools.product(
        ("error", "overwrite", "append"), (False, True), (b"", b"bad"), (FULL, NONE)
    )
    if not (single_file and mode == "append")
]
IDS = [
    "-".join([case.mode, "file" if case.single_file else "folder", "rejected" if case.rejected else "clean",
              "renames" if case.support == FULL else "fallbacks"])
    for case in CASES
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A job that is assembled and about to publish."""

    place: Path
    sink: LocalSink
    manifest: dict[str, Any]
    journal: dict[str, Any]

    def publish(self) -> None:
        self.sink.publish(OTHER, self.manifest, self.journal, lambda: True)


def ready(place: Path, case: Case) -> Ready:
    place.mkdir()
    if case.before:
        old = make(place, "error", single_file=case.single_file)
        old.prepare(claim_of(), replace=None)
        publish(old, JOB, stage(old, JOB, b"old", b"gone"))
        old.finish(JOB)
        assert visible(place) == case.before
    sink = make(place, case.mode, single_file=case.single_file)
    sink.prepare(claim_of(OTHER), replace=None)
    files = stage(sink, OTHER, b"newer", case.rejected)
    return Ready(place=place, sink=sink, manifest=manifest_of(OTHER, files), journal=sink.journal(OTHER))


STEPS = ("rename", "link", "unlink", "rmdir", "mkdir")
"""What changes names; a kill before an fsync leaves the same as one after the step before it."""


@pytest.fixture
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote: syncing only costs time here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before its n-th change on disk; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            _kill_before(number)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _kill_before(number: int) -> None:
    left = itertools.count(number - 1, -1)

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return step

    for name in STEPS:
        setattr(os, name, guarded(getattr(os, name)))
    if rename._renameat2 is not None:
        rename._renameat2 = guarded(rename._renameat2)


def check_nothing_is_lost(found: Ready, case: Case) -> None:
    """Data and rejected rows are each old or new, never mixed; old data is somewhere until all is published."""
    data = "scores.bin" if case.single_file else "scores/"
    seen = visible(found.place)
    for prefix in (data, "scores.rejected"):
        now, before, after = (
            {name: each for name, each in state.items() if name.startswith(prefix)}
            for state in (seen, case.before, case.after)
        )
        allowed = [before, after] if case.support == FULL else [before, after, {}]
        assert now in allowed
    manifest = found.sink.look().manifest
    if manifest is not None and manifest["job_id"] == OTHER:
        assert seen == case.after
        assert found.sink.published(OTHER) == found.manifest
    else:
        everywhere = list(contents(found.place).values())
        assert all(everywhere.count(each) >= 1 for each in case.before.values())


@pytest.mark.usefixtures("_no_fsync")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_publishing_goes_on_after_a_kill_at_any_step(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "probe", lambda folder: case.support)
    for number in itertools.count(1):
        found = ready(tmp_path / str(number), case)
        killed = killed_at(number, found.publish)
        check_nothing_is_lost(found, case)
        # The next process is killed too, once a little way in, and the one after it ends.
        killed_at(2, found.publish)
        check_nothing_is_lost(found, case)
        found.publish()
        assert visible(found.place) == case.after
        assert found.sink.published(OTHER) == found.manifest
        found.sink.finish(OTHER)
        assert visible(found.place) == case.after
        assert not [path for path in found.place.iterdir() if path.name.startswith(".")]
        if not killed:
            break
    assert number > 4


@pytest.mark.usefixtures("_no_fsync")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_job_discarded_while_it_published_leaves_what_was_there(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "probe", lambda folder: case.support)
    for number in itertools.count(1):
        found = ready(tmp_path / str(number), case)
        killed = killed_at(number, found.publish)
        manifest = found.sink.look().manifest
        done = manifest is not None and manifest["job_id"] == OTHER
        killed_at(number % 7 + 1, lambda found=found: found.sink.discard(OTHER))  # type: ignore[misc]
        found.sink.discard(OTHER)
        assert visible(found.place) == (case.after if done else case.before)
        assert not [path for path in found.place.iterdir() if path.name.startswith(".")]
        if not killed:
            break
    assert done


@pytest.mark.usefixtures("_no_fsync")
@pytest.mark.parametrize("mode", ["error", "overwrite"])
@pytest.mark.parametrize("work", ["finish", "discard"])
def test_cleaning_up_goes_on_after_a_kill_at_any_step(work: str, mode: Mode, tmp_path: Path) -> None:
    case = Case(mode=mode, single_file=False, rejected=b"bad", support=FULL)
    for number in itertools.count(1):
        found = ready(tmp_path / str(number), case)
        if work == "finish":
            found.publish()
        expected = visible(found.place)
        killed = killed_at(number, lambda found=found: getattr(found.sink, work)(OTHER))  # type: ignore[misc]
        assert visible(found.place) == expected
        getattr(found.sink, work)(OTHER)
        assert visible(found.place) == expected
        assert not [path for path in found.place.iterdir() if path.name.startswith(".")]
        if not killed:
            break
    assert number > 4


@pytest.mark.usefixtures("_no_fsync")
def test_preparing_goes_on_after_a_kill_at_any_step(tmp_path: Path) -> None:
    for number in itertools.count(1):
        sink = make(tmp_path / str(number) / "deep", "error")
        killed = killed_at(number, lambda sink=sink: sink.prepare(claim_of(), replace=None))  # type: ignore[misc]
        sink.prepare(claim_of(), replace=None)
        publish(sink, JOB, stage(sink, JOB, b"a", b""))
        sink.finish(JOB)
        assert set(contents(sink.parent)) == {"scores/part-00000.bin", "scores/part-00001.bin", "scores.manifest.json"}
        if not killed:
            break
    assert number > 4


@pytest.mark.usefixtures("_no_fsync")
@pytest.mark.parametrize("mode", ["error", "append"])
def test_assembling_goes_on_after_a_kill_at_any_step(mode: Mode, tmp_path: Path) -> None:
    for number in itertools.count(1):
        place = tmp_path / str(number)
        if mode == "append":
            old = make(place, "error")
            old.prepare(claim_of(), replace=None)
            publish(old, JOB, stage(old, JOB, b"old", b"gone"))
            old.finish(JOB)
        sink = make(place, mode)
        sink.prepare(claim_of(OTHER), replace=None)
        parts = [(n, stage_part(sink, OTHER, n, "predictions", 1, b"%d" % n)) for n in range(3)]
        killed = killed_at(number, lambda sink=sink, parts=parts: sink.assemble(OTHER, parts))  # type: ignore[misc]
        files = sink.assemble(OTHER, parts)
        publish(sink, OTHER, files)
        found = visible(place)
        expected = [b"0", b"1", b"2"] if mode == "error" else [b"old", b"old", b"0", b"1", b"2", b"gone"]
        assert [found[file.name] for file in files] == expected
        assert len(found) == len(expected)
        if not killed:
            break
    assert number > 4


def test_one_of_two_processes_wins(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tidemill.domain.errors import OutputBusy\n"
        "from tidemill.ports.sink import Claim\n"
        "from tidemill.sinks.local import LocalSink\n"
        "job, place = sys.argv[1:]\n"
        "sink = LocalSink(place, mode='error', suffix='.bin', single_file=False)\n"
        "claim = Claim(job_id=job, store='s', host='h', pid=1, worker_lock='l', output='o', started_at='t')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "try: sink.prepare(claim, replace=None)\n"
        "except OutputBusy as exc: print('lost', exc)\n"
        "else: print('won')\n"
    )
    for turn in range(3):
        place = str(tmp_path / f"{turn}/scores")
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", code, f"job_{number}", place],
                stdin=-1,
                stdout=-1,
                text=True,
                env=os.environ.copy(),
            )
            for number in range(3)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        said = [racer.communicate()[0] for racer in racers]
        winner = next(number for number, words in enumerate(said) if words == "won\n")
        assert sum(words.startswith("lost") and f"job_{winner}" in words for words in said) == 2


# -- places


@pytest.mark.parametrize(
    "output, suffix, single_file, names",
    [
        ("scores/", ".parquet", False, ("scores", "scores.rejected", "scores.manifest.json")),
        ("scores.parquet", ".parquet", True, ("scores.parquet", "scores.rejected.parquet", "scores.manifest.json")),
        ("a.b.csv.gz", ".csv.gz", True, ("a.b.csv.gz", "a.b.rejected.csv.gz", "a.b.manifest.json")),
        ("scores.pq", ".parquet", True, ("scores.pq", "scores.rejected.pq", "scores.manifest.json")),
        ("scores.txt.gz", ".csv.gz", True, ("scores.txt.gz", "scores.rejected.txt.gz", "scores.manifest.json")),
        ("scores", ".csv", True, ("scores", "scores.rejected", "scores.manifest.json")),
        (
            "scores.parquet/",
            ".parquet",
            False,
            ("scores.parquet", "scores.parquet.rejected", "scores.parquet.manifest.json"),
        ),
    ],
)
def test_names_beside_the_output(
    output: str, suffix: str, single_file: bool, names: tuple[str, str, str], tmp_path: Path
) -> None:
    sink = LocalSink(f"{tmp_path}/{output}", mode="error", suffix=suffix, single_file=single_file)
    assert (sink.target.name, sink.rejected_target.name, sink.manifest_target.name) == names
    hidden = f".{names[2].removesuffix('.manifest.json')}.tidemill"
    assert sink.staging(JOB) == f"{tmp_path}/{hidden}/{JOB}"


SIBLINGS = [(False, "scores"), (True, "scores.bin"), (True, "scores.bin.gz")]


def sibling(place: Path, number: int, mode: Mode) -> LocalSink:
    """One of three outputs whose manifest has the same name."""
    single_file, name = SIBLINGS[number]
    suffix = ".bin.gz" if name.endswith(".gz") else ".bin"
    return LocalSink(f"{place}/{name}", mode=mode, suffix=suffix, single_file=single_file, lock_wait_seconds=0)


@pytest.mark.parametrize(
    "first, second, mode",
    [
        (1, 0, "append"),
        *((*pair, mode) for pair in ((0, 1), (0, 2), (1, 0), (1, 2)) for mode in ("error", "overwrite")),
    ],
)
def test_a_manifest_is_never_taken_over_by_another_output(first: int, second: int, mode: Mode, tmp_path: Path) -> None:
    old = sibling(tmp_path, first, "error")
    old.prepare(claim_of(), replace=None)
    manifest = {**manifest_of(JOB, stage(old, JOB, b"old", b"gone")), "output": str(old.target)}
    old.publish(JOB, manifest, old.journal(JOB), lambda: True)
    old.finish(JOB)
    before = contents(tmp_path)
    new = sibling(tmp_path, second, mode)
    assert (new.look().manifest, new.look().other_output) == (None, str(old.target))
    with pytest.raises(OutputExists) as caught:
        new.prepare(claim_of(OTHER), replace=None)
    assert f"{new.manifest_target} lists the files of {old.target};" in str(caught.value)
    assert str(old.target) in str(caught.value.remedy)
    assert contents(tmp_path) == before
    assert old.look().manifest == manifest


def test_a_manifest_that_was_moved_with_its_output_is_still_its_own(tmp_path: Path) -> None:
    (tmp_path / "scores.manifest.json").write_text(json.dumps({"job_id": JOB, "files": [], "output": "/before/scores"}))
    assert sibling(tmp_path, 0, "error").look().manifest is not None
    assert sibling(tmp_path, 1, "error").look().other_output == str(tmp_path / "scores")


@pytest.mark.parametrize("second", [0, 2])
def test_one_job_at_a_time_writes_any_of_the_outputs_that_share_a_manifest(second: int, tmp_path: Path) -> None:
    holder, other = sibling(tmp_path, 1, "error"), sibling(tmp_path, second, "error")
    claim = Claim(**{**claim_of().to_json(), "output": str(holder.target)})
    holder.prepare(claim, replace=None)
    assert other.look().claim == claim
    with pytest.raises(OutputBusy) as caught:
        other.prepare(claim_of(OTHER), replace=None)
    assert f"{other.target} shares its manifest with {holder.target}, which is held by job {JOB}" in str(caught.value)


@pytest.mark.usefixtures("_no_fsync")
def test_a_sibling_puts_back_what_a_dead_job_had_half_replaced(tmp_path: Path) -> None:
    case = Case(mode="overwrite", single_file=False, rejected=b"bad", support=FULL)
    for number in itertools.count(1):
        found = ready(tmp_path / str(number), case)
        killed = killed_at(number, found.publish)
        manifest = found.sink.look().manifest
        assert manifest is not None
        sibling(found.place, 2, "error").discard(OTHER)
        assert visible(found.place) == (case.after if manifest["job_id"] == OTHER else case.before)
        assert not [path for path in found.place.iterdir() if path.name.startswith(".")]
        if not killed:
            break
    assert number > 4


def test_the_manifest_is_indented_json_and_comes_with_what_it_says(tmp_path: Path) -> None:
    sink = make(tmp_path, "error", single_file=True)
    sink.prepare(claim_of(), replace=None)
    files = stage(sink, JOB, b"data", b"bad")
    assert [(file.kind, file.name, file.rows) for file in files] == [
        ("predictions", "scores.bin", 4),
        ("rejected", "scores.rejected.bin", 3),
    ]
    publish(sink, JOB, files)
    text = (tmp_path / "scores.manifest.json").read_text()
    assert text == json.dumps(manifest_of(JOB, files), indent=2) + "\n"


def test_more_parts_than_five_digits_still_sort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_DIGITS", 1)
    sink = make(tmp_path, "error")
    sink.prepare(claim_of(), replace=None)
    parts = [(n, stage_part(sink, JOB, n, "predictions", 1, b"%d" % n)) for n in range(11)]
    names = [file.name for file in sink.assemble(JOB, parts)]
    assert names == sorted(names)
    assert names[-1] == "scores/part-10.bin"


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    sink = make(tmp_path, "error")
    assert not sink.look().occupied
    sink.prepare(claim_of(), replace=None)
    publish(sink, JOB, stage(sink, JOB, b"a", b""))
    assert sorted(visible(tmp_path)) == ["scores/part-00000.bin", "scores/part-00001.bin"]


@pytest.mark.parametrize("name", ["scores/other.bin", "scores.rejected/other.bin", "scores.manifest.json"])
def test_somebody_elses_data_that_appears_stays_and_nothing_is_published(name: str, tmp_path: Path) -> None:
    sink = make(tmp_path, "error")
    sink.prepare(claim_of(), replace=None)
    files = stage(sink, JOB, b"a", b"bad")
    journal = sink.journal(JOB)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(OutputExists, match=name.partition("/")[0]):
        sink.publish(JOB, manifest_of(JOB, files), journal, lambda: True)
    assert {key: data for key, data in contents(tmp_path).items() if key[0] != "."} == {name: b"{}"}
    (tmp_path / name).unlink()
    if name != "scores.manifest.json":
        (tmp_path / name).parent.rmdir()
    sink.publish(JOB, manifest_of(JOB, files), journal, lambda: True)
    assert sink.published(JOB) is not None


@pytest.mark.parametrize("name", ["scores.rejected/other.bin", "scores.manifest.json"])
def test_data_that_appears_between_two_renames_undoes_the_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make(tmp_path, "error")
    sink.prepare(claim_of(), replace=None)
    files = stage(sink, JOB, b"a", b"bad")
    real = local.put

    def put(move: local.Move, support: Support, *, replace: bool) -> None:
        real(move, support, replace=replace)
        path = tmp_path / name
        if move.target.name == ("scores" if "rejected" in name else "scores.rejected"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")

    monkeypatch.setattr(local, "put", put)
    with pytest.raises(OutputExists, match=name.partition("/")[0]):
        publish(sink, JOB, files)
    assert {key: data for key, data in contents(tmp_path).items() if key[0] != "."} == {name: b"x"}
    sink.discard(JOB)
    assert contents(tmp_path) == {name: b"x"}


def test_append_refuses_a_file_that_appeared_while_it_ran(tmp_path: Path) -> None:
    found = ready(tmp_path / "p", Case(mode="append", single_file=False, rejected=b"", support=FULL))
    (found.place / "scores/stranger.bin").write_bytes(b"mine")
    with pytest.raises(Damaged, match=r"stranger\.bin"):
        found.publish()
    assert (found.place / "scores/stranger.bin").read_bytes() == b"mine"


def test_append_refuses_another_format(tmp_path: Path) -> None:
    ready(tmp_path / "p", Case(mode="append", single_file=False, rejected=b"", support=FULL)).sink.discard(OTHER)
    other = LocalSink(f"{tmp_path}/p/scores", mode="append", suffix=".csv", single_file=False)
    with pytest.raises((InvalidSpec, OutputExists), match=r"part-00000\.bin"):
        other.prepare(claim_of(), replace=None)


def test_append_to_a_single_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="folder"):
        LocalSink(f"{tmp_path}/scores.csv", mode="append", suffix=".csv", single_file=True)


def test_overwrite_refuses_a_folder_that_holds_more_than_data(tmp_path: Path) -> None:
    (tmp_path / "scores/src").mkdir(parents=True)
    (tmp_path / "scores/thesis.doc").write_bytes(b"years")
    with pytest.raises(OutputExists, match="not written by Tidemill"):
        make(tmp_path, "overwrite").prepare(claim_of(), replace=None)
    assert contents(tmp_path) == {"scores/thesis.doc": b"years"}
    assert not list(tmp_path.glob(".*"))


def test_overwrite_takes_a_folder_of_data_without_manifest(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/0.bin").write_bytes(b"old")
    (tmp_path / "scores/_SUCCESS").write_bytes(b"")
    sink = make(tmp_path, "overwrite")
    sink.prepare(claim_of(), replace=None)
    publish(sink, JOB, stage(sink, JOB, b"new", b""))
    sink.finish(JOB)
    assert visible(tmp_path) == {"scores/part-00000.bin": b"new", "scores/part-00001.bin": b"new"}


@pytest.mark.parametrize("single_file", [False, True])
def test_overwrite_refuses_a_folder_for_a_file_and_a_file_for_a_folder(single_file: bool, tmp_path: Path) -> None:
    sink = make(tmp_path, "overwrite", single_file=single_file)
    if single_file:
        sink.target.mkdir()
    else:
        sink.target.write_bytes(b"x")
    with pytest.raises(OutputExists, match="is a fol" if single_file else "is a file"):
        sink.prepare(claim_of(), replace=None)


def test_overwrite_refuses_a_link_and_names_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/0.bin").write_bytes(b"old")
    (tmp_path / "scores").symlink_to(tmp_path / "real")
    with pytest.raises(OutputExists) as caught:
        make(tmp_path, "overwrite").prepare(claim_of(), replace=None)
    assert str(tmp_path / "real") in str(caught.value.remedy)
    assert (tmp_path / "scores").is_symlink()


def test_a_link_on_the_way_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    sink = make(tmp_path / "link", "error")
    assert sink.staging(JOB).startswith(f"{tmp_path}/real/")
    sink.prepare(claim_of(), replace=None)
    with pytest.raises(OutputBusy):
        make(tmp_path / "real", "error").prepare(claim_of(OTHER), replace=None)


def test_a_parent_that_is_a_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "file", tmp_path / "file/deeper"):
        sink = make(place, "error")
        assert not sink.look().occupied
        with pytest.raises(OutputUnwritable) as caught:
            sink.prepare(claim_of(), replace=None)
        assert "choose another output" in str(caught.value.remedy)
    assert contents(tmp_path) == {"file": b"x"}


def test_a_name_that_is_too_long_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    sink = LocalSink(f"{tmp_path}/{'n' * 250}", mode="error", suffix=".bin", single_file=False)
    with pytest.raises(OutputUnwritable) as caught:
        sink.prepare(claim_of(), replace=None)
    assert caught.value.remedy == "Choose a shorter name for the output."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code, word", [(errno.EACCES, "permissions"), (errno.ENOSPC, "space"), (errno.EROFS, "may write")]
)
def test_a_parent_that_cannot_be_written_is_refused_with_a_remedy(
    code: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(*args: Any, **options: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    sink = make(tmp_path / "new", "error")
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(OutputUnwritable) as caught:
        sink.prepare(claim_of(), replace=None)
    assert word in str(caught.value.remedy)
    assert str(sink.target) in str(caught.value)


def test_no_name_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        LocalSink("/", mode="error", suffix=".bin", single_file=False)


# -- locks and losses


def test_a_lock_that_somebody_keeps_names_the_holder_of_the_claim(tmp_path: Path) -> None:
    found = ready(tmp_path / "p", Case(mode="error", single_file=False, rejected=b"", support=FULL))
    with FileLock(found.place / ".scores.tidemill.lock") as lock:
        assert lock.try_lock()
        with pytest.raises(OutputBusy, match=f"{OTHER}.*process 7 on nowhere"):
            found.publish()
    assert visible(found.place) == {}


def test_who_loses_the_lease_while_waiting_for_the_lock_gives_up(tmp_path: Path) -> None:
    found = ready(tmp_path / "p", Case(mode="error", single_file=False, rejected=b"", support=FULL))
    sink = LocalSink(str(found.place / "scores"), mode="error", suffix=".bin", single_file=False)
    with FileLock(found.place / ".scores.tidemill.lock") as lock:
        assert lock.try_lock()
        with pytest.raises(LeaseLost):
            sink.publish(OTHER, found.manifest, found.journal, lambda: False)


def test_a_broken_claim_is_named_not_ignored(tmp_path: Path) -> None:
    (tmp_path / ".scores.tidemill.claim").write_bytes(b"{}")
    with pytest.raises(OutputBusy) as caught:
        make(tmp_path, "error").look()
    assert "remove that file" in str(caught.value.remedy)


@pytest.mark.usefixtures("_no_fsync")
def test_a_takeover_puts_back_what_a_dead_job_had_half_replaced(tmp_path: Path) -> None:
    case = Case(mode="overwrite", single_file=False, rejected=b"bad", support=FULL)
    for number in range(1, 40):
        found = ready(tmp_path / str(number), case)
        if not killed_at(number, found.publish):
            break
        manifest = found.sink.look().manifest
        assert manifest is not None
        heir = make(found.place, "append")
        dead = heir.look().claim
        assert dead is not None
        (found.place / ".scores.tidemill.claim").write_text(
            json.dumps({**dead.to_json(), "host": local.socket.gethostname()})
        )
        heir.prepare(claim_of("job_3"), replace=heir.look().claim)
        assert visible(found.place) == (case.after if manifest["job_id"] == OTHER else case.before)
    assert number > 4


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    sink = make(tmp_path, "error")
    sink.prepare(claim_of(), replace=None)
    part = stage_part(sink, JOB, 0, "predictions", 1, b"a")
    (Path(sink.staging(JOB)) / part.name).unlink()
    with pytest.raises(OutputUnwritable, match=r"0000000\.a1\.predictions\.bin is gone"):
        sink.assemble(JOB, [(0, part)])


def test_publishing_without_assembling_is_refused(tmp_path: Path) -> None:
    ready(tmp_path / "p", Case(mode="overwrite", single_file=False, rejected=b"", support=FULL)).sink.discard(OTHER)
    sink = make(tmp_path / "p", "overwrite")
    sink.prepare(claim_of(), replace=None)
    with pytest.raises(OutputUnwritable, match="not assembled"):
        sink.journal(JOB)


def test_a_single_file_of_another_size_is_refused(tmp_path: Path) -> None:
    sink = make(tmp_path, "error", single_file=True)
    sink.prepare(claim_of(), replace=None)
    part = stage_part(sink, JOB, 0, "predictions", 1, b"a")
    (Path(sink.staging(JOB)) / "out/data.bin").write_bytes(b"longer")
    with pytest.raises(OutputUnwritable, match="not the file of 1 bytes"):
        sink.assemble(JOB, [(0, type(part)(**{**vars(part), "name": "out/data.bin"}))])


def test_append_copies_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any, **options: Any) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    case = Case(mode="append", single_file=False, rejected=b"bad", support=FULL)
    found = ready(tmp_path / "p", case)
    found.publish()
    assert visible(found.place) == case.after


def test_the_sink_needs_no_native_library() -> None:
    code = "import sys, tidemill.sinks.local; print({'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
