"""Kernels that are kept from job to job: what is read is what was written, or nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidemill.domain.errors import InvalidSpec
from tidemill.engine import acceleration, models
from tidemill.flavors import lightgbm_trees
from tidemill.flavors.lightgbm import LightGBMFlavor
from tidemill.kernels import kept, trees
from tidemill.kernels.kept import Place

NODE = np.dtype([("threshold", "f8"), ("feature", "u4"), ("child", "i4", 2)], align=True)


def parts() -> dict[str, Any]:
    """As kernels have them: vectors, records with a gap, a number, a word."""
    random = np.random.default_rng(1)
    nodes = np.zeros(20, NODE)
    nodes["threshold"] = random.normal(size=20)
    return {"leaves": random.normal(size=50), "nodes": nodes, "empty": np.empty(0, np.int32), "sums": 3, "form": "x"}


def same(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    if one is None or one.keys() != other.keys():
        return False
    alike = [np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in other]
    return all(alike) and all(type(one[name]) is type(other[name]) for name in other)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(folder=tmp_path / "kernels", model="0123-trees", source=__file__)


def test_what_is_written_is_read(place: Place) -> None:
    assert place.read() is None
    place.write(parts())
    found = place.read()
    assert found is not None
    assert same(found, parts())
    assert found["nodes"].dtype.itemsize == NODE.itemsize
    assert [found["nodes"].dtype.fields[name][1] for name in NODE.names or ()] == [0, 8, 12]
    assert len(list(place.folder.iterdir())) == 1


def test_a_damaged_file_counts_as_none(place: Place) -> None:
    place.write(parts())
    (file,) = place.folder.iterdir()
    whole = file.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        found = place.read()
        assert found is None or same(found, parts()), position
        refused += found is None
    assert refused > 100
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert place.read() is None, length


def test_what_other_code_wrote_is_not_read(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.py"
    source.write_text("one\n")
    mine = Place(folder=place.folder, model=place.model, source=str(source))
    mine.write(parts())
    assert mine.read() is not None
    assert place.read() is None
    os.utime(source, ns=(1, 1))
    assert mine.read() is None
    os.utime(source)
    mine.write(parts())
    monkeypatch.setattr(kept, "ABI", kept.ABI + 1)
    assert mine.read() is None


def test_what_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    place = Place(folder=tmp_path / "file", model="0123-trees", source=__file__)
    place.write(parts())
    assert place.read() is None


def test_a_writing_that_breaks_off_leaves_what_was_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(parts())

    def full(*_: Any) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(kept.os, "replace", full)
    place.write({"leaves": np.zeros(3)})
    assert same(place.read(), parts())
    assert len(list(place.folder.iterdir())) == 1


def test_those_that_were_not_used_for_the_longest_time_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 3)
    places = [Place(folder=place.folder, model=f"{number}-trees", source=__file__) for number in range(5)]
    for age, each in enumerate(places[:3]):
        each.write(parts())
        os.utime(each._path(), (1_000 + age, 1_000 + age))
    assert places[0].read() is not None
    places[3].write(parts())
    assert [each.read() is not None for each in places] == [True, False, True, True, False]
    monkeypatch.setattr(kept, "MOST_BYTES", 1)
    places[4].write(parts())
    assert [each.read() is not None for each in places] == [False, False, False, False, True]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import lightgbm

    path = tmp_path_factory.mktemp("model") / "model.txt"
    x = np.random.default_rng(0).normal(size=(500, 3))
    data = lightgbm.Dataset(x, x.sum(axis=1), feature_name=["a", "b", "c"])
    lightgbm.train({"verbose": -1, "num_threads": 1, "num_leaves": 5}, data, 4).save_model(path)
    return path


def test_a_model_s_kernel_is_kept_by_its_digest(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**models.identify(str(model)), "trusted": True, "kernels": str(tmp_path / "kernels")}
    models.load(facts, {"accelerate": False})
    assert not (tmp_path / "kernels").exists()
    models.load(facts, {"accelerate": True})
    (file,) = (tmp_path / "kernels").iterdir()
    assert file.name.startswith(f"{facts['digest']}-lightgbm-")
    monkeypatch.setattr(trees, "compiled_of", None)
    assert models.load(facts, {"accelerate": True}).kernel is not None


def test_where_it_is_kept_is_nothing_that_a_user_may_say(model: Path, tmp_path: Path) -> None:
    asked = {"accelerate": True, "options": {"kernel_file": str(tmp_path / "anywhere")}}
    with pytest.raises(InvalidSpec, match="no option called kernel_file"):
        LightGBMFlavor().load(str(model), asked)
    assert not list(tmp_path.iterdir())


def test_one_wrong_leaf_of_a_kept_kernel_is_caught(model: Path, tmp_path: Path) -> None:
    facts = {**models.identify(str(model)), "trusted": True, "kernels": str(tmp_path / "kernels")}
    fast = models.load(facts, {"accelerate": True})
    library = models.load(facts, {"accelerate": False})
    x = np.random.default_rng(2).normal(size=(2_000, 3))
    rows = pa.RecordBatch.from_pydict(dict(zip("abc", x.T, strict=True)))
    assert fast.kernel is not None
    assert acceleration.compare(library, fast, fast.kernel, rows).largest_difference == 0
    place = Place.at(str(tmp_path / "kernels" / f"{facts['digest']}-lightgbm"), lightgbm_trees.__file__)
    assert place is not None
    written = place.read()
    assert written is not None
    written["leaves"][7] += 1e-9
    place.write(written)
    wrong = models.load(facts, {"accelerate": True})
    assert wrong.kernel is not None
    assert "differs by" in str(acceleration.compare(library, wrong, wrong.kernel, rows).disagreement)
