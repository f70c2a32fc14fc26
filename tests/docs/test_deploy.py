"""The files in deploy/ are well formed and name only what there is. Running them takes machines of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidemill.api.routes import service
from tidemill.config import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())
DRAIN_SECONDS = Settings.model_fields["drain_seconds"].default


def unit(name: str) -> dict[str, list[str]]:
    """Every value of each key; systemd allows a key more than once."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def kubernetes() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


def pod(deployment: str) -> dict[str, Any]:
    spec: dict[str, Any] = kubernetes()[f"Deployment/{deployment}"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_says_at_its_top_that_it_is_untested(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# Untested here: ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_names_only_settings_that_there_are(path: Path) -> None:
    named = set(re.findall(r"\bTIDEMILL_([A-Z_]+[A-Z])\b", path.read_text(encoding="utf-8"))) - {"DATA"}
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_image_checks_a_path_that_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    paths = {route.path for route in service.root.routes}  # type: ignore[attr-defined]
    assert set(re.findall(r"127\.0\.0\.1:8642(/\w+)", text)) == {"/health"} <= paths
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE) == ["10001"]
    assert f"EXPOSE {Settings.model_fields['port'].default}" in text


def test_compose_has_a_database_a_service_and_two_workers() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {"db", "serve", "worker"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for name in ("serve", "worker"):
        assert services[name]["command"] == [name]
        assert services[name]["depends_on"]["db"] == {"condition": "service_healthy"}
        assert int(services[name]["stop_grace_period"].rstrip("s")) > DRAIN_SECONDS
        assert services[name]["environment"]["TIDEMILL_STORE"].startswith("postgresql://tidemill@db/")
        assert json.loads(services[name]["environment"]["TIDEMILL_DATA_ROOTS"]) == ["/data"]
    volumes = {volume.partition(":")[0] for each in services.values() for volume in each["volumes"]}
    assert set(compose["volumes"]) <= volumes


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_unit_gives_the_worker_time_to_end(name: str) -> None:
    words = unit("tidemill.service" if name == "serve" else "tidemill-worker.service")
    assert words["Type"] == ["exec"]
    assert words["ExecStart"] == [f"/opt/tidemill/bin/tidemill {name}"]
    assert (words["KillMode"], words["KillSignal"]) == (["mixed"], ["SIGTERM"])
    assert int(words["TimeoutStopSec"][0]) > DRAIN_SECONDS


def test_kubernetes_gives_pods_time_to_end_and_a_volume_they_share() -> None:
    there = kubernetes()
    drain = float(there["ConfigMap/tidemill"]["data"]["TIDEMILL_DRAIN_SECONDS"])
    for name in ("serve", "worker"):
        spec = pod(f"tidemill-{name}")
        (container,) = spec["containers"]
        assert container["args"] == [name]
        assert spec["terminationGracePeriodSeconds"] > drain
        assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "tidemill"
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        labels = there[f"Deployment/tidemill-{name}"]["spec"]["template"]["metadata"]["labels"]
        assert labels == there[f"Deployment/tidemill-{name}"]["spec"]["selector"]["matchLabels"]
    selector = there["Service/tidemill"]["spec"]["selector"]
    assert selector == there["Deployment/tidemill-serve"]["spec"]["selector"]["matchLabels"]
    assert there["PersistentVolumeClaim/tidemill"]["spec"]["accessModes"] == ["ReadWriteMany"]
