"""Models: what one that is sent may name beside itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from tidemill.domain.errors import ModelUnusable
from tidemill.engine import models
from tidemill.flavors import transformers_folder
from tidemill.flavors.mlflow_folder import Folder

OUTSIDE = ["../other", "../../etc", "/etc", "x/../../other", "./../other"]


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_module_of_sentence_transformers_lies_in_its_folder(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    listed = [{"type": "sentence_transformers.models.Transformer", "path": place}]
    (folder / "modules.json").write_text(json.dumps(listed))
    assert transformers_folder.looks_like(str(folder))
    with pytest.raises(ModelUnusable, match="outside its folder"):
        transformers_folder.read(str(folder))


@pytest.mark.parametrize("place", OUTSIDE)
def test_the_native_file_of_mlflow_lies_in_its_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "other").write_text("x")
    folder = tmp_path / "model"
    (folder / "x").mkdir(parents=True)
    words = {"loader_module": "mlflow.onnx"}
    said = {"flavors": {"python_function": words, "onnx": {"data": place}}}
    assert Folder(path=str(folder), said=said).native is None


@pytest.mark.parametrize("place", ["../secret.bin", "{there}/secret.bin", "link.bin"])
def test_onnx_reads_no_data_from_outside_its_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place.format(there=tmp_path)), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    facts = models.identify(str(folder / "model.onnx"), None)
    with pytest.raises(ModelUnusable, match="External data"):
        models.load({**facts, "trusted": False}, {"features": list("abcd")})
