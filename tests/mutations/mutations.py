"""Small wrong changes of the product, and for each the test that must go red."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Text of a file under src/tidemill that stands there exactly once, and what it becomes."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A defect. `test` is the node that must fail, for a reason that matches `because`."""

    name: str
    edits: tuple[Edit, ...]
    test: str
    because: str


def _one(file: str, old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(file=file, old=old, new=new),)


CRASH = "tests/crash"
ORDER = f"{CRASH}/test_order.py::test_everything_is_durable_before_it_is_visible"
FAULT = f"{CRASH}/test_faults.py::test_calls_fail"

MUTATIONS = (
    Mutation(
        name="part_not_synced",
        edits=_one("durable/files.py", "                os.fsync(self._fd)\n", ""),
        test=f"{ORDER}[error]",
        because="published before it was durable",
    ),
    Mutation(
        name="folders_not_synced",
        edits=_one(
            "durable/files.py",
            "        os.fsync(fd)\n    finally:\n        os.close(fd)\n\n\ndef fsync_file",
            "        pass\n    finally:\n        os.close(fd)\n\n\ndef fsync_file",
        ),
        test=f"{ORDER}[error]",
        because="published before it was durable",
    ),
    Mutation(
        name="sync_error_swallowed",
        edits=_one(
            "durable/files.py",
            "                os.fsync(self._fd)\n",
            "                with suppress(OSError):\n                    os.fsync(self._fd)\n",
        ),
        test=f"{FAULT}[parts]",
        because=r"not refused: Ran\(code=3,",
    ),
    Mutation(
        name="folder_sync_error_swallowed",
        edits=_one(
            "durable/files.py",
            "        os.fsync(fd)\n    finally:\n        os.close(fd)\n\n\ndef fsync_file",
            "        with suppress(OSError):\n            os.fsync(fd)\n    finally:\n        os.close(fd)\n\n\n"
            "def fsync_file",
        ),
        test=f"{FAULT}[output]",
        because=r"not refused: Ran\(code=3,",
    ),
    Mutation(
        name="manifest_not_synced_again",
        edits=_one(
            "engine/worker.py",
            'raised after all was published: %s", self.job.id, exc)\n            self._publish()\n',
            'raised after all was published: %s", self.job.id, exc)\n            self._succeed(published)\n',
        ),
        test=f"{FAULT}[published]",
        because="refused, but the store says succeeded",
    ),
    Mutation(
        name="manifest_before_data",
        edits=(
            Edit(
                file="sinks/local.py",
                old="                for move in moves:\n                    put(",
                new="                self._put_manifest(job_id)\n"
                "                for move in moves:\n                    put(",
            ),
            Edit(
                file="sinks/local.py",
                old="                self._put_manifest(job_id)\n            except FileExistsError",
                new="            except FileExistsError",
            ),
        ),
        test=f"{ORDER}[error]",
        because=r"At index 0 diff: '.*/scores\.rejected' != '.*/scores\.manifest\.json'",
    ),
    Mutation(
        name="exchange_repeated",
        edits=(
            Edit(file="durable/place.py", old="    if not is_done(move):\n", new="    if True:\n"),
            Edit(
                file="durable/place.py",
                old="        if there is not None and not (replace and there == move.old):\n",
                new="        if there is not None and not replace:\n",
            ),
            Edit(
                file="durable/place.py",
                old="    if move.new is not None and inode_of(move.staged) == move.new:\n        # The",
                new="    if False:\n        # The",
            ),
        ),
        test="tests/contract/test_sink_local.py::test_publishing_goes_on_after_a_kill_at_any_step"
        "[overwrite-folder-clean-renames]",
        because=r"\{'scores/part-00000\.bin': b'old'\} != \{'scores/part-00000\.bin': b'newer'\}",
    ),
    Mutation(
        name="store_not_synchronous",
        edits=_one("stores/sql/sqlite.py", "synchronous = FULL", "synchronous = OFF"),
        test=f"{CRASH}/test_power.py::test_power_cuts[0]",
        because=r"AssertionError: (acknowledged Look\(|lost frozenset\()",
    ),
    Mutation(
        name="children_outlive_the_worker",
        edits=_one(
            "executors/child.py",
            'if sys.platform == "linux" and _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:',
            'if sys.platform == "linux" and _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0) != 0:',
        ),
        test=f"{CRASH}/test_descendants.py::test_no_scorer_outlives_worker_and_zygote",
        because=r"assert not \[\d+",
    ),
    Mutation(
        name="commit_without_the_fence",
        edits=(
            Edit(
                file="stores/sql/tables.py",
                old="and_(jobs.c.id == lease.job_id, jobs.c.epoch == lease.epoch, jobs.c.token == lease.token)",
                new="and_(jobs.c.id == lease.job_id)",
            ),
            # Else a heartbeat may notice before the next commit.
            Edit(
                file="stores/sql/queue.py",
                old=".where(held_by(lease), jobs.c.worker_id == worker_id)",
                new=".where(held_by(lease))",
            ),
        ),
        test=f"{CRASH}/test_freeze.py::test_workers_that_lost_their_job_change_nothing[0]",
        because="the one that lost the job changed the store",
    ),
    Mutation(
        name="output_not_locked",
        edits=_one("sinks/local.py", "        while not lock.try_lock():\n", "        while False:\n"),
        test="tests/contract/test_sink_local.py::TestLocalSink::test_one_of_many_wins",
        because=r"\d won and \d were told so",
    ),
    Mutation(
        name="lease_not_asked_under_the_lock",
        edits=_one(
            "sinks/local.py",
            '            if not is_current():\n                raise LeaseLost(f"Another process took over {job_id}',
            '            if False:\n                raise LeaseLost(f"Another process took over {job_id}',
        ),
        test="tests/contract/test_sink_local.py::TestLocalSink::test_who_lost_the_lease_publishes_nothing",
        because="DID NOT RAISE LeaseLost",
    ),
    Mutation(
        name="committed_parts_swept",
        edits=_one("engine/worker.py", 'split(".")[:2]) in ledger', 'split(".")[:2]) in ()'),
        test=f"{FAULT}[parts]",
        because=r"assert not \['parts/\d+",
    ),
    Mutation(
        name="committed_chunks_scored_again",
        edits=_one(
            "engine/scoring.py",
            "            yield from range(start, first)\n",
            "            yield from range(start, stop)\n",
        ),
        test=f"{FAULT}[parts]",
        because="a chunk was committed twice",
    ),
    Mutation(
        name="trust_not_checked",
        edits=(
            *_one("service/jobs.py", "    if not trusted:\n", "    if False:\n"),
            *_one(
                "engine/models.py",
                'registry.flavors.get(model["flavor"]).carries_code and not model.get("trusted")',
                "False",
            ),
        ),
        test="tests/acceptance/test_commands.py::test_a_model_that_carries_code_must_be_trusted[model.joblib]",
        because="exit 0, not 2",
    ),
    Mutation(
        name="row_swallowed",
        edits=_one(
            "engine/predicting.py",
            "        if len(good):\n            whole =",
            "        good = good[1:]\n        if len(good):\n            whole =",
        ),
        test=f"{FAULT}[parts]",
        because=r"error Chunk \d+: 200 rows planned, ",
    ),
)
