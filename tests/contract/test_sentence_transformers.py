"""Folders of sentence-transformers give what that library gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.contract.transformers_folders import TEXTS, Make, batch, load, maker, sentence_folder
from tidemill.domain.errors import ModelUnusable


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("transformers"))


@pytest.mark.parametrize(
    "pooling, width",
    [
        ({"pooling_mode": "cls"}, 16),
        ({"pooling_mode": ["max", "mean_sqrt_len_tokens"]}, 32),
        ({"pooling_mode_cls_token": True, "pooling_mode_lasttoken": True}, 32),
        ({}, 16),
    ],
)
def test_poolings_are_those_of_sentence_transformers(
    saved: Make, tmp_path: Path, pooling: dict[str, Any], width: int
) -> None:
    from sentence_transformers import SentenceTransformer

    said = {"word_embedding_dimension": 16, **pooling}
    path = sentence_folder(saved("BertModel"), tmp_path / "m", said, normalized=False)
    wanted = SentenceTransformer(path, device="cpu", local_files_only=True).encode(TEXTS)
    found = load(path).predict(batch(TEXTS)).columns.column(0)
    assert wanted.shape == (len(TEXTS), width)
    assert np.allclose(found.to_pylist(), wanted, atol=1e-6)


def test_a_dense_layer_over_the_embedding(saved: Make, tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(7)
    modules = [
        Transformer(saved("BertModel")),
        Pooling(16, "mean"),
        Dense(16, 5),
        Normalize(),
    ]
    whole = SentenceTransformer(modules=modules, device="cpu")
    path = str(tmp_path / "m")
    whole.save(path)
    found = load(path).predict(batch(TEXTS)).columns.column(0)
    assert found.type == pa.list_(pa.float32(), 5)
    assert np.allclose(found.to_pylist(), whole.encode(TEXTS), atol=1e-6)
    (folder,) = Path(path).glob("*_Dense")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:40])
    with pytest.raises(ModelUnusable, match=r"Dense/model\.safetensors cannot be loaded"):
        load(path)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"activation_function": "evil.Activation"}))
    with pytest.raises(ModelUnusable, match=r"activation evil\.Activation"):
        load(path)
