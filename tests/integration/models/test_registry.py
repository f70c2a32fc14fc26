"""Versions, aliases, trust: what the registry promises, with real model files and real children."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.models.conftest import (
    Shelf,
    code,
    joblib_file,
    lightgbm_text,
    onnx_file,
    sha256,
    skops_file,
)
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import AuditEntry, Principal, Role
from tidemill.domain.errors import (
    InvalidSpec,
    ModelUnusable,
    NotAllowed,
    NotFound,
    NotTrusted,
    TooLarge,
    UnknownFormat,
)
from tidemill.domain.model import Environment
from tidemill.service import claims, modelfiles, models, registration, submission
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

KeyOf = Callable[[Role], Principal]


def files_in(context: Context) -> set[str]:
    """Everything in the models' folder, locks included."""
    root = context.places.models
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def audited(context: Context, who: Principal) -> list[tuple[str, str, dict[str, str]]]:
    """What the audit log tells of a tenant, oldest first."""
    entries: list[AuditEntry] = context.store.audit.list(who.tenant)
    return [(entry.action, entry.subject, dict(entry.detail)) for entry in reversed(entries)]


FORMATS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "sklearn": ("model.skops", skops_file),
    "lightgbm": ("model.txt", lightgbm_text),
    "onnx": ("model.onnx", onnx_file),
}


@pytest.mark.parametrize("flavor", ["sklearn", "lightgbm", "onnx"])
def test_a_model_is_kept_by_its_digest_and_tells_its_signature(
    context: Context, person: Principal, shelf: Shelf, flavor: str
) -> None:
    name, data = FORMATS[flavor]
    source = shelf.put(name, data())
    added = registration.add(context, person, "churn", str(source), description="the first")
    assert (added.version, added.flavor, added.digest) == (1, flavor, sha256(data()))
    assert (added.size_bytes, added.carries_code, added.origin) == (len(data()), False, str(source))
    assert (added.created_by, added.description) == ("ann", "the first")
    assert added.path == str(context.places.models / added.digest[:2] / added.digest / name)
    source.write_bytes(b"replaced")
    assert Path(added.path).read_bytes() == data()
    signature = added.signature
    assert signature is not None
    if flavor == "onnx":
        assert (signature["positional"], len(signature["inputs"])) == (2, 2)
    else:
        assert [field["name"] for field in signature["outputs"]] == ["prediction"]
        assert {field["name"] for field in signature["inputs"]} >= {"sklearn": {"a", "b"}, "lightgbm": {"distance"}}[
            flavor
        ]
    assert models.get(context, person, "churn") == added
    assert audited(context, person) == [
        ("model.add", "churn@1", {"digest": added.digest, "origin": added.origin}),
    ]


def test_a_format_with_code_needs_trust_before_anybody_scores_with_it(
    context: Context, person: Principal, shelf: Shelf
) -> None:
    added = registration.add(
        context, person, "risk", str(shelf.put("model.joblib", joblib_file())), aliases=["champion"]
    )
    assert (added.flavor, added.carries_code, added.trusted, added.signature) == ("pickle", True, False, None)
    with pytest.raises(NotTrusted, match="tidemill models trust risk@1"):
        models.resolve(context, person, "risk@champion")
    trusted = models.trust(context, person, "risk@champion")
    assert trusted.trusted
    assert trusted.signature is not None
    assert [field["name"] for field in trusted.signature["inputs"]] == ["a", "b"]
    pin = models.resolve(context, person, "risk@champion")
    assert (pin.asked, pin.reference, pin.digest) == ("risk@champion", "risk@1", added.digest)
    assert (pin.path, pin.flavor, pin.carries_code) == (added.path, "pickle", True)
    assert ("model.trust", "risk@1", {"digest": added.digest}) in audited(context, person)
    known = registration.add(context, person, "other", str(shelf.put("model.joblib", joblib_file())))
    assert known.signature == trusted.signature, "the digest is trusted, so it is loaded at once"


def test_untrusted_code_does_not_run_when_it_is_added_or_checked(
    context: Context, person: Principal, shelf: Shelf
) -> None:
    mark = shelf.outside / "it-ran"
    data = b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    protocol_two = b"\x80\x02" + data
    source = shelf.put("bomb.pkl", protocol_two)
    registration.add(context, person, "bomb", str(source))
    assert models.check(context, person, "bomb@1").loads is None
    assert not mark.exists()
    with pytest.raises(ModelUnusable):
        models.trust(context, person, "bomb@1")
    assert mark.exists(), "trust loads it: this is the code that would have run"


def test_code_is_not_let_in_by_another_flavors_name(context: Context, person: Principal, key: KeyOf) -> None:
    script = b"raise SystemExit('it ran')\nclass Model:\n    def predict(self, batch): return [0.0] * batch.num_rows\n"
    for filename in ("evil.py", "evil.py:Model", "evil:Model"):
        with pytest.raises(ModelUnusable) as refused:
            registration.receive(context, key(Role.OPERATOR), "evil", filename, [script], flavor="python")
        assert "it ran" not in str(refused.value)
    with pytest.raises(NotFound):
        models.get(context, person, "evil")


def test_the_same_bytes_make_no_new_version_and_are_stored_once(
    context: Context, person: Principal, shelf: Shelf
) -> None:
    first = registration.add(context, person, "churn", str(shelf.put("one.pkl", code(1))), aliases=["champion"])
    again = registration.add(context, person, "churn", str(shelf.put("two.pkl", code(1))), aliases=["champion", "best"])
    assert (again.version, again.path, again.aliases) == (1, first.path, ("best", "champion"))
    second = registration.add(context, person, "churn", str(shelf.put("two.pkl", code(2))), aliases=["champion"])
    third = registration.add(context, person, "churn", str(shelf.put("one.pkl", code(1))))
    assert (second.version, third.version, third.path) == (2, 3, first.path)
    assert models.get(context, person, "churn@champion").version == 2
    assert models.get(context, person, "churn@best").version == 1
    assert models.get(context, person, "churn@latest").version == 3
    assert [entry for entry in audited(context, person) if entry[0] == "alias.move"] == [
        ("alias.move", "churn@champion", {"old": "-", "new": "churn@1"}),
        ("alias.move", "churn@best", {"old": "-", "new": "churn@1"}),
        ("alias.move", "churn@champion", {"old": "churn@1", "new": "churn@2"}),
    ]
    assert [entry[1] for entry in audited(context, person) if entry[0] == "model.add"] == [
        "churn@1",
        "churn@2",
        "churn@3",
    ]


def test_tenants_do_not_see_each_other(context: Context, person: Principal, shelf: Shelf) -> None:
    other = replace(person, tenant=f"{person.tenant}-b")
    mine = registration.add(context, person, "churn", str(shelf.put("m.pkl", code(10))), aliases=["champion"])
    with pytest.raises(NotFound) as refused:
        models.get(context, other, "churn@champion")
    assert "mean" not in str(refused.value)
    for call in (
        lambda: models.list_versions(context, other, "churn"),
        lambda: models.move_alias(context, other, "churn", "champion", 1),
        lambda: models.remove_alias(context, other, "churn", "champion"),
        lambda: models.trust(context, other, "churn@1"),
        lambda: models.check(context, other, "churn@1"),
        lambda: models.resolve(context, other, "churn@1"),
        lambda: models.limit_running(context, other, "churn", 1),
    ):
        with pytest.raises(NotFound):
            call()
    theirs = registration.add(context, other, "churn", str(shelf.put("m.pkl", code(11))))
    assert (mine.version, theirs.version) == (1, 1)
    assert [item.digest for item in models.list_names(context, other).items] == [theirs.digest]
    assert [item.digest for item in models.list_names(context, person).items] == [mine.digest]


def test_a_near_miss_is_named(context: Context, person: Principal, shelf: Shelf) -> None:
    registration.add(context, person, "churn", str(shelf.put("m.pkl", code(10))), aliases=["champion"])
    with pytest.raises(NotFound, match="churn"):
        models.get(context, person, "chrun@champion")
    with pytest.raises(NotFound, match="champion"):
        models.get(context, person, "churn@chapmion")
    with pytest.raises(NotFound):
        models.get(context, person, "churn@99999999999999999999")


def test_concurrent_additions_number_without_gaps(context: Context, person: Principal, shelf: Shelf) -> None:
    sources = [str(shelf.put("m.pkl", code(100 + number))) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(lambda source: registration.add(context, person, "many", source), sources))
    assert sorted(version.version for version in added) == list(range(1, 13))
    assert len({version.digest for version in added}) == 12
    page = models.list_versions(context, person, "many", limit=5)
    assert [item.version for item in page.items] == [12, 11, 10, 9, 8]
    assert page.next == "8"
    last = models.list_versions(context, person, "many", limit=8, before=8)
    assert [item.version for item in last.items] == [7, 6, 5, 4, 3, 2, 1]
    assert last.next is None


def test_names_come_in_pages(context: Context, person: Principal, shelf: Shelf) -> None:
    for number, name in enumerate(("c", "a", "b")):
        registration.add(context, person, name, str(shelf.put("m.pkl", code(number))))
    page = models.list_names(context, person, limit=2)
    assert ([item.name for item in page.items], page.next) == (["a", "b"], "b")
    rest = models.list_names(context, person, limit=2, after="b")
    assert ([item.name for item in rest.items], rest.next) == (["c"], None)


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("cut.txt", lambda: cut(lightgbm_text()), ModelUnusable),
        ("notes.md", lambda: b"# no model", UnknownFormat),
        ("empty.txt", lambda: b"", ModelUnusable),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_leaves_nothing(
    context: Context, person: Principal, shelf: Shelf, name: str, data: Callable[[], bytes], error: type[Exception]
) -> None:
    before = files_in(context)
    source = shelf.put(name, data())
    with pytest.raises(error) as refused:
        registration.add(context, person, "bad", str(source))
    assert str(source) in str(refused.value)
    assert modelfiles.INCOMING not in str(refused.value)
    assert files_in(context) == before
    with pytest.raises(NotFound):
        models.get(context, person, "bad")
    assert audited(context, person) == []


def test_a_model_that_kills_its_process_is_refused(context: Context, person: Principal, tmp_path: Path) -> None:
    module = tmp_path / "killer.py"
    module.write_text(
        "import os\nclass Model:\n    def __init__(self): os.abort()\n    def predict(self, batch): ...\n"
    )
    with pytest.raises(ModelUnusable, match=r"killer\.py:Model cannot be loaded.*SIGABRT"):
        registration.add(context, person, "killer", f"{module}:Model")


def test_a_class_is_registered_only_by_the_person_at_the_machine(
    context: Context, person: Principal, key: KeyOf, tmp_path: Path
) -> None:
    module = tmp_path / "mine.py"
    module.write_text(
        "class Model:\n    inputs = {'n': 'int64'}\n    def predict(self, batch): return batch.column(0)\n"
    )
    with pytest.raises(NotAllowed, match="only by the person"):
        registration.add(context, key(Role.ADMIN), "mine", f"{module}:Model")
    added = registration.add(context, person, "mine", f"{module}:Model")
    assert (added.flavor, added.path) == ("python", f"{module}:Model")
    assert added.signature is not None
    assert added.signature["inputs"] == [{"name": "n", "type": "int64", "nullable": True}]
    module.write_text(module.read_text() + "# changed\n")
    told = models.check(context, person, "mine@1")
    assert (told.intact, told.loads) == (False, None)


def test_a_key_reads_only_where_the_operator_allows(context: Context, key: KeyOf, shelf: Shelf, tmp_path: Path) -> None:
    operator = key(Role.OPERATOR)
    inside, outside = shelf.put("m.pkl", code(1)), shelf.put("m.pkl", code(2), outside=True)
    assert registration.add(context, operator, "in", str(inside)).origin == str(inside)
    link = inside.with_name("link.pkl")
    link.symlink_to(outside)
    for source in (outside, link, inside.parent / ".." / ".." / outside.parent.name, Path("/nowhere"), Path("m.pkl")):
        with pytest.raises(NotAllowed, match="cannot make the service read"):
            registration.add(context, operator, "out", str(source))
    folder = inside.parent / "folder"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(outside)
    with pytest.raises(NotFound):
        registration.add(context, operator, "out", str(folder))
    nowhere = replace(context, policy=replace(context.policy, data_roots=None))
    with pytest.raises(NotAllowed):
        registration.add(nowhere, operator, "in", str(inside))


def test_an_environment_is_an_administrators_decision(
    context: Context, person: Principal, key: KeyOf, shelf: Shelf
) -> None:
    source = str(shelf.put("model.skops", skops_file()))
    here = Environment(python=sys.executable)
    with pytest.raises(NotAllowed, match="cannot choose the environment"):
        registration.add(context, key(Role.OPERATOR), "own", source, environment=here)
    with pytest.raises(NotAllowed, match="cannot choose the environment"):
        registration.receive(context, key(Role.OPERATOR), "own", "m", [skops_file()], environment=here)
    for wrong in (Environment(), Environment(python="python3"), Environment(python="/x", requirements="skops")):
        with pytest.raises(InvalidSpec):
            registration.add(context, person, "own", source, environment=wrong)
    added = registration.add(context, person, "own", source, environment=here)
    assert added.environment == here
    assert added.signature is not None
    assert [field["name"] for field in added.signature["inputs"]] == ["a", "b"]
    assert models.resolve(context, person, "own@1").environment == here


def test_credentials_in_requirements_are_not_shown(context: Context, person: Principal, shelf: Shelf) -> None:
    added = registration.add(context, person, "own", str(shelf.put("m.pkl", code(5))))
    secret = Environment(requirements="--index-url https://me:hush@packages.example/simple\nskops")
    shown = models.describe(replace(added, environment=secret)).environment
    assert shown is not None
    assert shown["requirements"] == "--index-url https://***@packages.example/simple\nskops"


def test_check_finds_damage_and_adding_again_repairs_it(context: Context, person: Principal, shelf: Shelf) -> None:
    source = shelf.put("model.skops", skops_file(3))
    added = registration.add(context, person, "churn", str(source))
    told = models.check(context, person, "churn")
    assert (told.reference, told.digest, told.intact, told.loads, told.problem) == (
        "churn@1",
        added.digest,
        True,
        True,
        None,
    )
    stored = Path(added.path)
    stored.chmod(0o644)
    stored.write_bytes(skops_file(4))
    told = models.check(context, person, "churn@1")
    assert (told.intact, told.loads) == (False, None)
    assert sha256(skops_file(4)) in (told.problem or "")
    assert registration.add(context, person, "churn", str(source)).version == 1
    assert models.check(context, person, "churn@1").intact
    stored.unlink()
    told = models.check(context, person, "churn@1")
    assert not told.intact and told.problem == "The bytes that were registered are gone."
    renamed = shelf.put("other-name.skops", skops_file(3))
    assert registration.add(context, person, "churn", str(renamed)).path == added.path
    assert models.check(context, person, "churn@1").intact


def test_sent_bytes_are_registered(context: Context, key: KeyOf, shelf: Shelf) -> None:
    data = skops_file(7)
    pieces = [data[:100], b"", data[100:]]
    added = registration.receive(
        context, key(Role.OPERATOR), "sent", "../dir/model.skops", pieces, aliases=["champion"]
    )
    assert (added.digest, added.origin, added.aliases) == (sha256(data), "sent", ("champion",))
    assert added.signature is not None
    assert Path(added.path).name == "model.skops"
    before = files_in(context)
    small = replace(context, policy=replace(context.policy, max_upload_bytes=len(data) - 1))
    with pytest.raises(TooLarge):
        registration.receive(small, key(Role.OPERATOR), "sent", "model.skops", pieces)
    with pytest.raises(ModelUnusable, match="empty"):
        registration.receive(context, key(Role.OPERATOR), "sent", "model.skops", [])
    with pytest.raises(ZeroDivisionError):
        registration.receive(context, key(Role.OPERATOR), "sent", "model.skops", (data[: 1 // n] for n in (1, 0)))
    assert files_in(context) == before


class Bucket(BaseHTTPRequestHandler):
    """Gives one model to whoever knows the signature."""

    def do_GET(self) -> None:
        data = skops_file(8) if self.path == "/models/churn.skops?sig=hush" else b""
        self.send_response(200 if data else 403)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_model_comes_from_a_url(context: Context, person: Principal, key: KeyOf) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/models/churn.skops"
        added = registration.add(context, person, "churn", f"{url}?sig=hush")
        assert (added.digest, added.origin) == (sha256(skops_file(8)), url)
        assert Path(added.path).name == "churn.skops"
        with pytest.raises(NotFound, match="it answered 403"):
            registration.add(context, person, "churn", url)
        with pytest.raises(NotAllowed, match="not on the public internet"):
            registration.add(context, key(Role.ADMIN), "churn", f"{url}?sig=hush")
        named = replace(context, policy=replace(context.policy, model_hosts=("127.0.0.1",)))
        assert registration.add(named, key(Role.OPERATOR), "copy", f"{url}?sig=hush").digest == added.digest
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.mark.parametrize(
    "source", ["s3://bucket/model.txt", "models:/churn@champion", "ftp://x/y", "http://", "a\0b", ""]
)
def test_sources_that_are_not_known(context: Context, person: Principal, source: str) -> None:
    with pytest.raises(InvalidSpec):
        registration.add(context, person, "churn", source)


@pytest.mark.parametrize("alias", ["3", "3rd", "latest", "a b", "", "-x", "a@b"])
def test_words_that_cannot_be_aliases(context: Context, person: Principal, shelf: Shelf, alias: str) -> None:
    source = str(shelf.put("m.pkl", code(1)))
    with pytest.raises(InvalidSpec):
        registration.add(context, person, "churn", source, aliases=[alias])
    registration.add(context, person, "churn", source)
    with pytest.raises(InvalidSpec):
        models.move_alias(context, person, "churn", alias, 1)
    assert models.get(context, person, "churn").aliases == ()


def test_aliases_move_and_go(context: Context, person: Principal, shelf: Shelf) -> None:
    for number in (1, 2):
        registration.add(context, person, "churn", str(shelf.put("m.pkl", code(number))))
    assert models.move_alias(context, person, "churn", "champion", 1).aliases == ("champion",)
    assert models.move_alias(context, person, "churn", "champion", 2).version == 2
    assert models.get(context, person, "churn@1").aliases == ()
    with pytest.raises(NotFound):
        models.move_alias(context, person, "churn", "champion", 3)
    assert models.get(context, person, "churn@champion").version == 2
    models.remove_alias(context, person, "churn", "champion")
    with pytest.raises(NotFound):
        models.remove_alias(context, person, "churn", "champion")
    assert [entry[2] for entry in audited(context, person) if entry[0] == "alias.move"] == [
        {"old": "-", "new": "churn@1"},
        {"old": "churn@1", "new": "churn@2"},
        {"old": "churn@2", "new": "-"},
    ]


def test_an_alias_that_cannot_be_moved_adds_nothing(context: Context, person: Principal, shelf: Shelf) -> None:
    """Version, aliases and their audit entries are one transaction."""
    before = context.store.models.move_alias

    def failing(tenant: str, name: str, alias: str, version: int | None) -> int | None:
        if alias == "second":
            raise ZeroDivisionError
        return before(tenant, name, alias, version)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(context.store.models, "move_alias", failing)
        with pytest.raises(ZeroDivisionError):
            registration.add(context, person, "churn", str(shelf.put("m.pkl", code(900))), aliases=["first", "second"])
    with pytest.raises(NotFound):
        models.get(context, person, "churn")
    assert audited(context, person) == []
    assert models.sweep_unfinished(context, an_hour_later()) == 1, "bytes without a version are swept"


def test_a_queued_job_keeps_the_version_its_alias_pointed_at(
    context: Context, person: Principal, shelf: Shelf, tmp_path: Path
) -> None:
    """The first model gives a - 2 b, the second a - 3 b."""
    first = registration.add(context, person, "line", str(shelf.put("m.skops", skops_file(0))), aliases=["champion"])
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [10.0, 20.0]}), tmp_path / "in.parquet")
    spec = JobSpec.model_validate(
        {
            "model": "line@champion",
            "input": {"path": [str(tmp_path / "in.parquet")]},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    job, _ = submission.submit(context, person, spec)
    registration.add(context, person, "line", str(shelf.put("m.skops", skops_file(1))), aliases=["champion"])
    assert models.resolve(context, person, "line@champion").version == 2
    claimed = context.store.jobs.claim(job.id, context.worker_id)
    assert claimed is not None
    job, lease = claimed
    claims.take(context, job, context.open_sink(JobSpec.model_validate(job.spec)), lambda: None)
    ended = context.worker().run(job, lease)
    assert ended.error is None
    assert ended.model is not None
    assert (ended.model.asked, ended.model.reference, ended.model.digest) == ("line@champion", "line@1", first.digest)
    predicted = pq.read_table(tmp_path / "out")["prediction"].to_pylist()
    assert predicted == pytest.approx([-19.0, -38.0])


def test_how_many_jobs_of_a_model_run_at_once(context: Context, person: Principal, shelf: Shelf) -> None:
    registration.add(context, person, "churn", str(shelf.put("m.pkl", code(1))))
    models.limit_running(context, person, "churn", 2)
    assert context.store.models.running_limit(person.tenant, "churn") == 2
    models.limit_running(context, person, "churn", None)
    assert context.store.models.running_limit(person.tenant, "churn") is None


def test_a_sweep_keeps_every_version(context: Context, person: Principal, shelf: Shelf) -> None:
    added = [registration.add(context, person, f"m{n}", str(shelf.put("m.pkl", code(n)))) for n in range(3)]
    models.sweep_unfinished(context, an_hour_later())
    assert all(Path(version.path).exists() for version in added)
    assert not any(name.startswith((".incoming", ".locks")) for name in files_in(context))


def an_hour_later() -> datetime:
    return datetime.now(UTC) + models.UNFINISHED + timedelta(minutes=1)


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from tidemill.bootstrap.wiring import opened
    from tidemill.config import Settings
    from tidemill.service import keys, modelfiles, models, registration

    def die(*rest, **words):
        os.kill(os.getpid(), signal.SIGKILL)

    home, source, when = sys.argv[1:]
    with opened(Settings(home=home)) as context:
        if when == "arrived":
            models.identify = die
        elif when == "placed":
            context.store.models.add_version = die
        elif when == "stored":
            context.store.models.move_alias = die
        registration.add(context, keys.person_here(context), "churn", source, aliases=["champion"])
    """
)


@pytest.mark.parametrize("when", ["arrived", "placed", "stored"])
def test_killed_in_the_middle_nothing_is_to_be_seen(shelf: Shelf, tmp_path: Path, when: str) -> None:
    source = shelf.put("m.pkl", code(1))
    script = [sys.executable, "-c", KILLED, str(tmp_path), str(source), when]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    with opened(Settings(home=tmp_path), children=False) as context:
        who = Principal(name="ann")
        assert models.list_names(context, who).items == []
        assert context.store.audit.list() == []
        assert files_in(context) != set()
        assert models.sweep_unfinished(context, an_hour_later()) == 1
        assert files_in(context) == set()
