"""The wheel in an empty environment, far from the source tree: undeclared dependencies and missing data show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

import tidemill

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("wheel")]


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An environment with nothing but the wheel, its extra `lightgbm` and what they declare."""

    bin: Path
    home: Path

    def run(self, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = _outside_environment() | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "TIDEMILL_HOME": str(self.home),
            "NO_COLOR": "1",
        }
        command = [str(self.bin / program), *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )


def _outside_environment() -> dict[str, str]:
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("TIDEMILL_")}


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, env=_outside_environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _checked([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("empty")
    _checked([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python")]
    lock = str(ROOT / "requirements" / "test.lock")
    wanted = f"tidemill[lightgbm] @ {wheel.as_uri()}"
    _checked([*pip, "install", "--quiet", "--no-compile", "--constraint", lock, wanted])
    _checked([*pip, "check"])
    return Installed(bin=folder / "venv" / "bin", home=folder / "home")


def test_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    there = {
        str(path.relative_to(source))
        for path in (source / "tidemill").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"tidemill-{tidemill.__version__}.dist-info/"
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(info)}
    assert packed == there
    assert "tidemill/py.typed" in packed


def test_wheel_says_what_it_is(wheel: Path) -> None:
    info = f"tidemill-{tidemill.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode()
        assert archive.read(f"{info}/entry_points.txt").decode().split() == [
            "[console_scripts]", "tidemill", "=", "tidemill.cli.start:main",
        ]  # fmt: skip
        assert b"Apache License" in archive.read(f"{info}/licenses/LICENSE")
    assert f"\nVersion: {tidemill.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.MULTILINE)) == {
        "all",
        "avro",
        "catboost",
        "excel",
        "lightgbm",
        "mlflow",
        "oidc",
        "onnx",
        "postgres",
        "sklearn",
        "torch",
        "transformers",
        "xgboost",
    }


def test_version_comes_from_the_installed_wheel(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("tidemill", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tidemill.__version__ in done.stdout
    where = installed.run("python", "-c", "import tidemill; print(tidemill.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.bin.parent)


def test_doctor_finds_nothing_wrong(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("tidemill", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(installed.home) in done.stdout


def test_demo_publishes_predictions(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("tidemill", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (manifest_path,) = tmp_path.rglob("*.manifest.json")
    counts = json.loads(manifest_path.read_text(encoding="utf-8"))["counts"]
    assert counts["total"] == counts["predicted"] + counts["rejected"]
    predictions = ds.dataset(manifest_path.with_name(manifest_path.name.removesuffix(".manifest.json"))).to_table()
    assert predictions.num_rows == counts["predicted"] > 0
    assert predictions.column("prediction").null_count == 0


def test_without_an_extra_the_install_line_is_shown(installed: Installed, tmp_path: Path) -> None:
    skops.io.dump(LinearRegression().fit(np.array([[0.0], [1.0]]), [0.0, 1.0]), tmp_path / "model.skops")
    (tmp_path / "in.csv").write_text("x\n1\n2\n")
    done = installed.run("tidemill", "run", "model.skops", "in.csv", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error 'sklearn' needs the package" in done.stderr
    assert "  \u2192 Run: pip install 'tidemill[sklearn]'\n" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model.skops", "in.csv"}
