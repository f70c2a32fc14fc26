"""Models of a real MLflow server: found by alias, copied, pinned, and scored when neither alias nor server is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests import warm
from tests.contract import mlflow_models
from tests.integration import mlflow_server
from tidemill.bootstrap.local import absolute
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal, Role
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound, NotTrusted, OutputMismatch
from tidemill.domain.job import Job, JobState
from tidemill.engine.models import digest_of
from tidemill.flavors import mlflow_registry
from tidemill.ports.observer import Observer
from tidemill.service import claims, jobs, mlflow, registration, submission
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("mlflow")]

PERSON = Principal(name="ann", tenant="default")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the model churn: version 1 is scikit-learn's, 2 LightGBM's, 3 an author's own."""
    packages = tmp_path_factory.mktemp("packages")
    mlflow_server.install(packages)
    with mlflow_server.serving(packages, tmp_path_factory.mktemp("mlflow")) as uri:
        with environment(MLFLOW_TRACKING_URI=uri):
            client = MlflowClient(uri)
            client.create_registered_model("churn")
            run = client.create_run("0").info.run_id
            for number, folder in enumerate(
                (mlflow_models.sklearn(), mlflow_models.lightgbm(), mlflow_models.own()), 1
            ):
                client.log_artifacts(run, folder, f"model{number}")
                source = f"{client.get_run(run).info.artifact_uri}/model{number}"
                client.create_model_version("churn", source, run)
            yield uri


@contextmanager
def environment(**words: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in words}
    os.environ.update(words)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def context(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with opened(Settings(home=tmp_path_factory.mktemp("home"))) as wired:
        yield wired


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "in.parquet"
    pq.write_table(pa.table({"id": range(mlflow_models.ROWS), **mlflow_models.batch().to_pydict()}), path)
    return str(path)


def spec(model: str, data: str, output: Path, **more: Any) -> JobSpec:
    words = {"model": model, "input": {"path": data}, "output": {"path": str(output)}, "keep": ["id"], **more}
    return JobSpec.model_validate(words)


def predictions(output: Path) -> pa.Table:
    return pq.read_table(output)


def point(server: str, version: int) -> None:
    MlflowClient(server).set_registered_model_alias("churn", "champion", str(version))


def test_a_run_scores_what_the_alias_points_at(server: str, data: str, tmp_path: Path) -> None:
    point(server, 1)
    words = ["run", "models:/churn@champion", data, "-o", str(tmp_path / "out")]
    environ = {**os.environ, "TIDEMILL_HOME": str(tmp_path / "home")}
    done = warm.tidemill(words, cwd=tmp_path, environ=environ, seconds=120)
    assert done.returncode == 0, done.stderr
    said = mlflow_models.says(mlflow_models.sklearn(), mlflow_models.frame())
    assert predictions(tmp_path / "out").column("prediction").to_pylist() == said.tolist()


class Stop(Observer):
    """Asks for an end as soon as there is a plan."""

    def by(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def job_planned(self, job: Job) -> None:
        self._stop()


def test_a_job_that_was_interrupted_keeps_its_version(server: str, data: str, tmp_path: Path) -> None:
    point(server, 1)
    asked = spec("models:/churn@champion", data, tmp_path / "out", compute={"rows_per_chunk": 10, "scorers": 1})
    with opened(Settings(home=tmp_path / "home")) as first:
        stop = Stop()
        stopped = jobs.run(first, asked, [stop], jobs.RunOptions(stop_softly=stop.by))
    assert stopped.job is not None
    assert stopped.job.state is JobState.PAUSED
    assert stopped.job.chunks_done < stopped.job.chunks_total == 10
    point(server, 2)
    with opened(Settings(home=tmp_path / "home")) as second:
        with pytest.raises(OutputMismatch, match="the model is another one"):
            jobs.run(second, asked)
        ended = jobs.resume(second, stopped.job.id)
    assert ended.job is not None
    assert (ended.job.id, ended.job.state) == (stopped.job.id, JobState.SUCCEEDED)
    said = mlflow_models.says(mlflow_models.sklearn(), mlflow_models.frame())
    assert predictions(tmp_path / "out").column("prediction").to_pylist() == said.tolist()


def test_a_queued_job_needs_neither_the_alias_nor_the_server_any_more(
    server: str, context: Context, data: str, tmp_path: Path
) -> None:
    point(server, 2)
    job, _ = submission.submit(context, PERSON, absolute(spec("models:/churn@champion", data, tmp_path / "out")))
    pin = job.model
    assert pin is not None
    assert (pin.asked, pin.origin, pin.flavor) == ("models:/churn@champion", "models:/churn/2", "mlflow_native")
    assert digest_of(pin.path)[0] == pin.digest
    assert Path(pin.path).is_relative_to(context.places.models.absolute())
    point(server, 1)
    with environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9"):
        claimed = context.store.jobs.claim(job.id, context.worker_id)
        assert claimed is not None
        worker = replace(context.worker(), take_output=lambda *asked: claims.take(context, *asked))
        ended = worker.run(*claimed)
    assert ended.state is JobState.SUCCEEDED, ended.error
    said = mlflow_models.says(mlflow_models.lightgbm(), mlflow_models.frame())
    assert predictions(tmp_path / "out").column("probability").to_pylist() == said.tolist()
    assert submission.asked_spec(context, ended)["model"] == "models:/churn@champion"


def test_registering_one_names_its_exact_version(server: str, context: Context) -> None:
    point(server, 2)
    added = registration.add(context, PERSON, "ours", "models:/churn@champion", aliases=["champion"])
    assert (added.origin, added.flavor, added.version) == ("models:/churn/2", "mlflow_native", 1)
    assert added.signature is not None
    assert [field["name"] for field in added.signature["inputs"]] == list(mlflow_models.NAMES)
    newest = registration.add(context, PERSON, "ours", "models:/churn/latest")
    assert (newest.origin, newest.version, newest.trusted) == ("models:/churn/3", 2, False)


def test_a_path_of_a_run(server: str, context: Context) -> None:
    run = MlflowClient(server).get_model_version("churn", "2").run_id
    uri = f"runs:/{run}/model2"
    pin = mlflow.pin(context, uri, None)
    assert (pin.asked, pin.origin, Path(pin.path).name) == (uri, uri, "model2")
    written = {each.name: each.read_bytes() for each in Path(mlflow_models.lightgbm()).iterdir()}
    assert {name: Path(pin.path, name).read_bytes() for name in written} == written


def test_code_is_asked_about_by_the_address(server: str, context: Context, data: str, tmp_path: Path) -> None:
    asked: list[Mapping[str, Any]] = []
    wanted = spec("models:/churn/3", data, tmp_path / "out")
    with pytest.raises(NotTrusted, match="models:/churn/3 is a mlflow model"):
        jobs.run(context, wanted, (), jobs.RunOptions(ask_trust=lambda model: bool(asked.append(model))))
    assert [model["path"] for model in asked] == ["models:/churn/3"]
    with pytest.raises(NotTrusted, match="models:/churn/3 is a mlflow model"):
        submission.submit(context, PERSON, wanted)
    jobs.run(context, wanted, (), jobs.RunOptions(ask_trust=lambda model: True))
    said = mlflow_models.says(mlflow_models.own(), mlflow_models.frame())
    assert predictions(tmp_path / "out").column("sum").to_pylist() == said["sum"].tolist()


@pytest.mark.parametrize(
    "uri, words",
    [
        ("models:/churn@nobody", "nobody"),
        ("models:/nothing/1", "nothing"),
        ("models:/nothing/latest", "no model of this name"),
        ("models:/churn/99", "99"),
        ("runs:/0123456789/model", "0123456789"),
    ],
)
def test_what_the_server_does_not_have(server: str, tmp_path: Path, uri: str, words: str) -> None:
    with pytest.raises(NotFound, match=words) as caught:
        mlflow_registry.download(uri, str(tmp_path))
    assert uri in caught.value.message
    assert caught.value.remedy


def test_nothing_is_left_of_what_could_not_be_had(server: str, context: Context) -> None:
    with pytest.raises(NotFound, match="nobody"):
        mlflow.pin(context, "models:/churn@nobody", None)
    assert not list((context.places.models / ".incoming").glob("*"))


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    words = {"MLFLOW_TRACKING_URI": "http://ann:secret@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with environment(**words), pytest.raises(NotFound, match="cannot be had from the MLflow server") as caught:
        mlflow_registry.download("models:/churn@champion", str(tmp_path))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["models:/churn", "models:/churn/Production", "models:/a/b/c", "runs:/x", "models:/@a"])
def test_addresses_that_are_none(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InvalidSpec, match="no address of a model") as caught:
        mlflow_registry.download(uri, str(tmp_path))
    assert "models:/NAME@ALIAS" in (caught.value.remedy or "")


def test_without_a_server_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with pytest.raises(InvalidSpec, match="nothing says where that is") as caught:
        mlflow_registry.download("models:/churn/1", str(tmp_path))
    assert "MLFLOW_TRACKING_URI" in (caught.value.remedy or "")


@pytest.mark.parametrize("role", list(Role))
def test_only_administrators_keys_may_make_the_service_fetch(role: Role) -> None:
    who = Principal(name="key", tenant="default", role=role, id="key_1")
    if role is Role.ADMIN:
        mlflow.check_may(who, "models:/churn/1")
        return
    with pytest.raises(NotAllowed, match="cannot make the service fetch") as caught:
        mlflow.check_may(who, "models:/churn/1")
    assert "tidemill models add NAME models:/churn/1" in (caught.value.remedy or "")
