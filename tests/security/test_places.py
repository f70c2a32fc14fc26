"""Files: what somebody with a key may make the service read or write, before and while a job runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.integration.api.house import House, opened_house
from tidemill.domain.access import Principal, Role
from tidemill.domain.confines import Confines
from tidemill.domain.errors import InputChanged, InvalidSpec, NotAllowed, NotFound, Refused, TidemillError
from tidemill.domain.job import JobState
from tidemill.engine import planner
from tidemill.engine.worker import Worker
from tidemill.service import places, registration, schedules, submission
from tidemill.sources.listing import list_inputs
from tidemill.sources.pinned import opened
from tidemill.testing.store import new_plan
from tidemill.wire.schedules import AddSchedule
from tidemill.wire.spec import JobSpec


@pytest.mark.parametrize(
    ("path", "held"),
    [
        *(("/data", True), ("/data/x", True), ("/data/a/b", True), ("/data-2/x", False), ("/dat", False), ("/", False)),
        *(("/data/home", False), ("/data/home/x.db", False), ("/data/homely", True)),
        *(("/data/home/shared", True), ("/data/home/shared/x", True), ("/data/home/shared/keys", False)),
    ],
)
def test_the_deepest_folder_decides(path: str, held: bool) -> None:
    confines = Confines(allowed=("/data", "/data/home/shared"), kept=("/data/home", "/data/home/shared/keys"))
    assert confines.hold(path) is held
    assert Confines.from_json(json.loads(json.dumps(confines.to_json()))) == confines


def test_the_root_of_all_may_be_allowed_without_the_services_own() -> None:
    confines = Confines(allowed=("/",), kept=("/srv/tidemill",))
    assert confines.hold("/etc/x")
    assert not confines.hold("/srv/tidemill/store")


@pytest.mark.parametrize("path", ["/data", "/data/a", "/data/home", "/data/home/x"])
def test_what_belongs_to_an_output_lies_in_a_root_too(path: str) -> None:
    """Rejected rows and manifest lie beside it; and nothing of the service is replaced by it."""
    confines = Confines(allowed=("/data",), kept=("/data/home", "/data/a/uploads"))
    assert not confines.hold_output(path)
    assert confines.hold_output("/data/b")


@pytest.fixture
def operator(house: House) -> Principal:
    return house.key()[0]


@pytest.fixture
def outside(house: House) -> Path:
    """A file with a secret that no data root holds."""
    folder = house.folder / "outside"
    folder.mkdir()
    (folder / "secret.csv").write_text("a\nhush\n")
    return folder


HOSTILE_INPUTS = [
    "{outside}/secret.csv", "{root}/../outside/secret.csv", "{root}//../outside/secret.csv", "{root}/./../outside",
    "{root}/x/../../outside/secret.csv", "/proc/self/environ", "/proc/self/root{outside}/secret.csv",
    "/proc/1/root/etc/passwd", "/dev/fd/0", "/dev/stdin", "/etc/passwd", "//etc/passwd", "///etc//passwd", "/",
    "/**", "/*", "/etc/*", "{root}/../**/*.csv", "{root}/*/../../outside/secret.csv", "{root}-2/x",
    "{root}/link/secret.csv", "{root}/link", "{root}/link/*.csv", "{root}/file.csv", "{root}/chain.csv",
    "{home}", "{home}/tidemill.db", "{home}/uploads", "{home}/results/*", "{home}/models", "{root}/../home/logs",
]  # fmt: skip
"""Not allowed. {root} is a data root, {outside} lies beside it, {home} is the service's folder."""

HOSTILE_WORDS = [
    "", ".", "..", "../outside", "outside/secret.csv", "~", "~/x", "~root/.ssh/id_rsa", "file:{outside}/secret.csv",
    "file://{outside}/secret.csv", "file:///etc/passwd", "FILE:///etc/passwd", "file://localhost/etc/passwd",
    "http://169.254.169.254/latest/meta-data", "https://data.example/x.csv", "s3://bucket/x", "gs://bucket/x",
    "ftp://127.0.0.1/x", "jar:file:/etc/passwd!/x", "data:text/csv,a", "\\\\server\\share\\x", "C:\\x.csv",
    "{root}/%2e%2e/outside/secret.csv", "{root}/..%2foutside%2fsecret.csv", "{root}/%252e%252e/outside/secret.csv",
    "{root}/..%c0%afoutside", "{root}/\uff0e\uff0e/outside/secret.csv", "{root}/..\u2215outside/secret.csv",
    "{root}/x\0.csv", "{root}/\0/../../outside", "{root}/in.parquet\0.csv", "@{root}/list", "@/etc/passwd", "-",
    "upload:", "upload:../../outside/secret.csv", "upload:/etc/passwd", "upload:upload_0000000000000000",
    "upload:..", "upload:.", "upload:%2e%2e", "server:/etc/passwd",
]  # fmt: skip
"""Lead nowhere: refused as words, or as what is not there. Nothing is decoded, so percent signs are names."""


def words_of(house: House, text: str) -> str:
    here = {"root": house.folder / "data", "outside": house.folder / "outside", "home": house.folder / "home"}
    return text.format(**here)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service that only refuses, with links out of its root."""
    folder = tmp_path_factory.mktemp("linked")
    root, outside = folder / "data", folder / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_text("a\nhush\n")
    with opened_house(folder, data_roots=[root]) as house:
        house.model()
        (root / "link").symlink_to(outside)
        (root / "file.csv").symlink_to(outside / "secret.csv")
        (root / "chain.csv").symlink_to("file.csv")
        yield house


@pytest.fixture(scope="module")
def somebody(linked: House) -> Principal:
    return linked.key()[0]


@pytest.mark.parametrize("text", HOSTILE_INPUTS)
def test_no_input_outside_the_roots(linked: House, somebody: Principal, text: str) -> None:
    with pytest.raises(NotAllowed, match="cannot name the input"):
        linked.submit(somebody, input={"path": [words_of(linked, text)]})


@pytest.mark.parametrize("text", HOSTILE_WORDS)
def test_words_that_are_no_input(linked: House, somebody: Principal, text: str) -> None:
    with pytest.raises((NotFound, InvalidSpec, NotAllowed)) as refused:
        linked.submit(somebody, input={"path": [words_of(linked, text)]})
    assert refused.value.remedy
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *("{outside}/x", "{root}", "{root}/", "{root}/.", "{root}/../x", "{root}/link/x", "{root}/link", "/", "/etc/x"),
        *("{home}", "{home}/x", "{home}/uploads/x", "{root}/../home/config.toml", "/dev/null", "/proc/self/fd/1"),
        *("file:///tmp/x", "x", "../x", "~/x", "s3://bucket/x", "{root}/x\0y", ""),
    ],
)
def test_no_output_outside_the_roots(linked: House, somebody: Principal, text: str) -> None:
    before = sorted(linked.folder.rglob("*"))
    with pytest.raises((NotAllowed, InvalidSpec, NotFound)) as refused:
        linked.submit(somebody, output={"path": words_of(linked, text)})
    assert refused.value.remedy
    assert sorted(linked.folder.rglob("*")) == before


HOSTILE_TEMPLATES = [
    *(
        "/etc/<due | date>",
        "{outside}/<due | date>",
        "{root}/../outside/<due>",
        "<due>",
        "<due | date>/x",
        "<due>/../../x",
    ),
    *(
        "{root}/<due | date('/../../outside/%Y')>",
        "{root}/<due | date('../../etc')>",
        "{root}/<due | date('%Y')>/../../x",
    ),
    *(
        "{root}/<now>",
        "{root}/<due.__class__>",
        "{root}/<''.__class__.__mro__>",
        "{root}/<due | attr('x')>",
        "{root}/<<due>>",
    ),
    *("{root}/<due | date('\0')>", "{root}/<due | date('\r\nX: y')>", "{root}/<due - 1d", "{root}/<7*7>"),
]
"""With < and > for the braces of templates."""


@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize("text", HOSTILE_TEMPLATES)
def test_no_template_leads_outside_the_roots(linked: House, somebody: Principal, text: str, what: str) -> None:
    named = words_of(linked, text).replace("<", "{{ ").replace(">", " }}")
    spec = linked.spec().model_dump(mode="json", exclude_defaults=True)
    spec[what] = {"path": [named] if what == "input" else named}
    wanted = {"name": "x", "spec": spec, "trigger": {"kind": "cron", "cron": "0 2 * * *"}}
    before = sorted(linked.folder.rglob("*"))
    with pytest.raises((NotAllowed, InvalidSpec, NotFound, ValidationError)):
        schedules.add(linked.context, somebody, AddSchedule.model_validate(wanted))
    assert sorted(linked.folder.rglob("*")) == before


@pytest.mark.parametrize("text", [*HOSTILE_INPUTS, "{root}/../outside/secret.csv:Model", "os:system", "/bin/sh"])
def test_no_model_outside_the_roots(linked: House, somebody: Principal, text: str) -> None:
    named = words_of(linked, text)
    for call in (
        lambda: submission.submit(linked.context, somebody, linked.spec(named)),
        lambda: registration.add(linked.context, somebody, "mine", named),
    ):
        with pytest.raises((NotAllowed, NotFound)):
            call()


def test_a_model_folder_with_a_link_out_is_not_loaded(house: House, operator: Principal, outside: Path) -> None:
    folder = house.folder / "data" / "model"
    folder.mkdir()
    (folder / "weights").symlink_to(outside / "secret.csv")
    with pytest.raises(NotAllowed, match="weights leads out"):
        submission.submit(house.context, operator, house.spec(str(folder)))


def test_a_root_around_the_services_own_folder_does_not_open_it(tmp_path: Path) -> None:
    with opened_house(tmp_path, data_roots=[tmp_path]) as house:
        house.model()
        operator, _ = house.key(Role.ADMIN)
        theirs = house.context.places.uploads / "red" / "upload_x" / "people.csv"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("a\n1\n")
        with pytest.raises(NotAllowed):
            house.submit(operator, input={"path": [str(theirs)]})
        with pytest.raises(NotAllowed):
            registration.add(house.context, operator, "theirs", str(theirs))
        with pytest.raises(NotAllowed):
            house.submit(operator, output={"path": str(tmp_path / "home" / "scores")})
        around = house.submit(operator, input={"path": [f"{tmp_path}/**"]})
        confines = places.confines_of_job(house.context, around)
        assert confines is not None
        with pytest.raises(NotAllowed, match=r"people\.csv lies outside"):
            list(list_inputs([f"{tmp_path}/home/uploads/**"], (".csv",), confines))


def test_addresses_of_models_begin_as_the_operator_says(tmp_path: Path) -> None:
    addresses = ("http://1.1.1.1/x", "HTTPS://1.1.1.1/x", "models:/churn/1", "runs:/x/model")
    with opened_house(tmp_path, model_schemes=[]) as house:
        admin, _ = house.key(Role.ADMIN)
        for address in addresses:
            with pytest.raises(NotAllowed, match=f"fetched by {address.partition(':')[0].lower()}:"):
                registration.add(house.context, admin, "x", address)
        with pytest.raises(NotAllowed, match="fetched by models:"):
            submission.submit(house.context, admin, house.spec("models:/churn/1"))
        for address in (
            "file:///etc/passwd",
            "ftp://h/x",
            "gopher://h/x",
            "s3://b/x",
            "dict://h:1/x",
            "jar:http://h/!x",
        ):
            with pytest.raises((InvalidSpec, NotAllowed, NotFound)):
                registration.add(house.context, admin, "x", address)


# -- while it runs


def listed(confines: Confines | None, *paths: str) -> list[str]:
    return [os.path.basename(file.path) for file in list_inputs(paths, (".csv",), confines)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with links to another root's file, and out of all of them."""
    for name in ("root/a", "other", "outside", "outside/deep"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "x.csv").write_text("a\n1\n")
    (tmp_path / "root" / "b").symlink_to("../other")
    return tmp_path


def test_links_between_roots_are_followed_and_others_are_not(tree: Path) -> None:
    both = Confines(allowed=(str(tree / "root"), str(tree / "other")), kept=())
    assert listed(both, f"{tree}/root") == ["x.csv", "x.csv"]
    one = Confines(allowed=(str(tree / "root"),), kept=())
    for path in (f"{tree}/root", f"{tree}/root/*/x.csv", f"{tree}/root/**", f"{tree}/root/b", f"{tree}/root/b/x.csv"):
        with pytest.raises(NotAllowed, match="root/b"):
            listed(one, path)
        assert listed(None, path)
    assert listed(one, f"{tree}/root/a") == ["x.csv"]


@pytest.mark.parametrize("target", ["outside", "outside/deep", "/", "/etc", ".."])
def test_a_folder_outside_is_not_even_listed(tree: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "root" / "c").symlink_to(target if target.startswith(("/", "..")) else tree / target)
    seen: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(os.path.realpath(path)) or scandir(path))
    confines = Confines(allowed=(str(tree / "root"), str(tree / "other")), kept=())
    with pytest.raises(NotAllowed, match="root/c lies outside"):
        listed(confines, f"{tree}/root/**/*.csv")
    assert all(path.startswith((str(tree / "root"), str(tree / "other"))) for path in seen)


def test_a_list_of_paths_is_not_read_for_a_key(tree: Path) -> None:
    (tree / "root" / "list").write_text(f"{tree}/outside/x.csv\n")
    confines = Confines(allowed=(str(tree / "root"),), kept=())
    with pytest.raises(TidemillError):
        listed(confines, f"@{tree}/root/list")
    assert listed(None, f"@{tree}/root/list") == ["x.csv"]


def plan_request(tree: Path, confines: Confines | None) -> dict[str, Any]:
    words = {"model": "/nowhere", "input": {"path": [f"{tree}/root"]}, "output": {"path": f"{tree}/out"}}
    spec = JobSpec.model_validate(words)
    return {
        "brief": spec.brief().to_json(),
        "staging": str(tree / "staging"),
        "model": {},
        "info": new_plan(1).model.to_json(),
        "confines": None if confines is None else confines.to_json(),
    }


def swapped(file: Path, target: Path) -> None:
    """The file is replaced by a link to one of the same size and time."""
    facts = file.stat()
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    file.unlink()
    file.symlink_to(target)


def test_a_file_that_becomes_a_link_after_it_was_checked_is_not_opened(tree: Path) -> None:
    """Between the check and the opening lies time; what was opened is looked at, not its name."""
    confines = Confines(allowed=(str(tree / "root"),), kept=())
    (file,) = list_inputs([f"{tree}/root/a"], None, confines)
    with opened(file) as raw:
        assert raw.read() == b"a\n1\n"
    swapped(tree / "root" / "a" / "x.csv", tree / "outside" / "x.csv")
    with pytest.raises(InputChanged, match="leads to another file"), opened(file) as raw:
        raw.read()
    with opened(replace(file, real_path=None)) as raw:
        assert raw.read() == b"a\n1\n"  # So it was the real path that closed this.


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tree: Path) -> None:
    (file,) = list_inputs([f"{tree}/root/a"], None)
    (tree / "root" / "a" / "x.csv").unlink()
    os.mkfifo(tree / "root" / "a" / "x.csv")
    with opened(file) as raw:
        assert raw.read(1) == b""


def test_an_output_whose_folder_became_a_link_is_not_written(house: House, operator: Principal, outside: Path) -> None:
    root = house.folder / "data"
    (root / "team").mkdir()
    job = house.submit(operator, output={"path": str(root / "team" / "scores")})
    (root / "team").rmdir()
    (root / "team").symlink_to(outside)
    ended = run_one(house, job.id)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "not_allowed"
    assert sorted(path.name for path in outside.iterdir()) == ["secret.csv"]


def run_one(house: House, job_id: str) -> Any:
    context = house.context
    claimed = context.store.jobs.claim(job_id, context.worker_id)
    assert claimed is not None
    worker: Worker = replace(context.worker(), confines=places.confines_of_job(context, claimed[0]))
    return worker.run(*claimed)


def test_jobs_of_the_person_at_the_machine_have_no_bounds(house: House, operator: Principal) -> None:
    assert places.confines_of_job(house.context, house.submit()) is None
    held = places.confines_of_job(house.context, house.submit(operator))
    assert held is not None
    assert held.hold(str(house.context.places.uploads / "default" / "x"))
    assert not held.hold(str(house.context.places.uploads / "red" / "x"))
    assert not held.hold(str(house.context.places.uploads))


def test_somebody_whose_jobs_would_have_no_bounds_submits_none(house: House) -> None:
    """A new kind of id must be made known to `domain.access` first."""
    strange = Principal(name="x", id="robot-1")
    with pytest.raises(AssertionError, match="must see"):
        house.submit(strange)


def test_the_planner_keeps_to_the_bounds(tree: Path) -> None:
    (tree / "root" / "z.csv").symlink_to(tree / "outside" / "x.csv")
    (tree / "staging" / "plan").mkdir(parents=True)
    request = plan_request(tree, Confines(allowed=(str(tree / "root"), str(tree / "other")), kept=()))
    with pytest.raises(Refused, match=r"z\.csv lies outside"):
        planner.plan(request, lambda seen: None)
