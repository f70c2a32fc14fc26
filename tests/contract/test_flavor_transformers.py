"""Folders of transformers on the shipped suite: tiny networks with random weights, made here."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.contract.transformers_folders import (
    LIMIT,
    TEXTS,
    WORDS,
    Make,
    batch,
    changed,
    load,
    maker,
    sentence_folder,
    tokenizer,
)
from tidemill.domain.errors import InvalidSpec, MissingExtra, ModelUnusable
from tidemill.domain.signature import Field
from tidemill.encoders.csv import CsvEncoder
from tidemill.flavors.transformers import TransformersFlavor
from tidemill.flavors.transformers_text import TextEncoder
from tidemill.testing.flavor import Case, FlavorContract, bits


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("transformers"))


def texts(count: int = 70) -> list[str]:
    random = np.random.default_rng(5)
    return [" ".join(random.choice(WORDS, random.integers(1, 12))) for _ in range(count)]


def own(path: str, kind: str, values: Sequence[str]) -> Any:
    """What transformers itself gives for texts, padded to the longest, cut at the limit."""
    import transformers

    torch.set_num_threads(1)
    model = getattr(transformers, kind).from_pretrained(path, local_files_only=True).eval()
    inputs = tokenizer()(list(values), padding=True, truncation=True, max_length=LIMIT, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs), inputs["attention_mask"]


class TestTransformers(FlavorContract):
    """A classifier. The rows are as few as one call of the network takes, in its order: padding and the place
    in a batch change last bits."""

    flavor_class = TransformersFlavor
    framework = ("torch", "transformers", "tokenizers", "safetensors", "sentence_transformers")

    @pytest.fixture(autouse=True)
    def _made(self, saved: Make) -> None:
        self._path = saved("BertForSequenceClassification", labels=("bad", "fine", "good"))

    def case(self) -> Case:
        values = sorted(dict.fromkeys(texts()[:30]), key=lambda text: len(text.split()))
        p = torch.softmax(own(self._path, "BertForSequenceClassification", values)[0].logits, -1).numpy()
        expected: dict[str, Any] = {"prediction": pa.array(np.array(["bad", "fine", "good"])[p.argmax(1)].tolist())}
        expected |= {f"probability_{name}": pa.array(p[:, n]) for n, name in enumerate(("bad", "fine", "good"))}
        return Case(
            path=self._path, rows=batch(values), expected=expected, options={"probabilities": True, "device": "cpu"}
        )


def test_embeddings_are_the_mean_of_the_tokens(saved: Make, tmp_path: Path) -> None:
    path = sentence_folder(saved("BertModel"), tmp_path / "m", {"pooling_mode_mean_tokens": True})
    model = load(path)
    output, mask = own(path, "BertModel", TEXTS)
    weights = mask.unsqueeze(-1).float()
    mean = (output.last_hidden_state * weights).sum(1) / weights.sum(1)
    wanted = torch.nn.functional.normalize(mean, dim=1).numpy()
    found = model.predict(batch(TEXTS)).columns
    assert model.info.outputs == (Field(name="embedding", type="fixed_size_list<item: float>[16]", nullable=False),)
    assert found.schema.field(0).type == pa.list_(pa.float32(), 16)
    # Here texts of about one length stand together, there all are padded to the longest.
    assert np.allclose(found.column(0).to_pylist(), wanted, atol=1e-6)
    assert found.column(0)[1] == found.column(0)[6]
    (refused,) = CsvEncoder({}).unwritable(found.schema)
    assert (refused.column, "Parquet" in refused.remedy) == ("embedding", True)
    with pytest.raises(InvalidSpec, match="embeddings has no probabilities"):
        load(path, probabilities=True)


def test_without_the_libraries_it_says_what_to_install(saved: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved("BertModel")
    for name in ("transformers", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=f"'transformers' needs the package '{name}'") as caught:
            load(path)
        assert "pip install 'tidemill[transformers]'" in str(caught.value.remedy)


def test_prompt_case_and_length_are_as_the_folder_says(saved: Make, tmp_path: Path) -> None:
    path = sentence_folder(
        saved("BertModel"),
        tmp_path / "m",
        {"pooling_mode": "mean"},
        sentence_bert_config_json={"max_seq_length": 6, "do_lower_case": True},
        config_sentence_transformers_json={"prompts": {"query": "the good "}, "default_prompt_name": "query"},
    )
    model = load(path)
    assert any("first 6 tokens" in note for note in model.info.notes)
    plain = load(sentence_folder(saved("BertModel"), tmp_path / "plain", {"pooling_mode": "mean"}))
    found = model.predict(batch(["MILL bread", "mill bread stone wheel tide"])).columns.column(0).to_pylist()
    wanted = plain.predict(batch(["the good mill bread", "the good mill bread stone"])).columns.column(0).to_pylist()
    assert np.allclose(found[0], wanted[0], atol=1e-6)
    shorter = load(sentence_folder(saved("BertModel"), tmp_path / "s", {"pooling_mode": "mean"}), max_length=6)
    cut = shorter.predict(batch(["the good mill bread stone"])).columns.column(0).to_pylist()
    assert np.allclose(found[1], cut[0], atol=1e-6)
    for length in (2, LIMIT + 1, "5", True):
        with pytest.raises(InvalidSpec, match="max_length"):
            load(saved("BertModel"), max_length=length)


def test_an_encoder_alone_gives_means_and_says_so(saved: Make) -> None:
    model = load(saved("BertModel"))
    assert any("mean is taken" in note for note in model.info.notes)
    assert model.info.outputs[0].name == "embedding"


def test_two_labels_are_binary_and_equal_the_pipeline(saved: Make) -> None:
    from transformers import pipeline

    path = saved("BertForSequenceClassification", labels=("no", "yes"))
    model = load(path)
    found = model.predict(batch(TEXTS)).columns
    assert (model.info.task, model.info.positive_class) == ("binary", "yes")
    answers = pipeline("text-classification", model=path, device="cpu", top_k=None)(TEXTS, truncation=True)
    yes = [next(each["score"] for each in answer if each["label"] == "yes") for answer in answers]
    assert np.allclose(found.column("probability").to_pylist(), yes, atol=1e-6)
    assert found.column("prediction").to_pylist() == [answer[0]["label"] for answer in answers]
    assert set(found.column("prediction").to_pylist()) == {"no", "yes"}
    high = load(path, threshold=0.999).predict(batch(TEXTS)).columns.column("prediction").to_pylist()
    assert high.count("yes") < found.column("prediction").to_pylist().count("yes")
    with pytest.raises(InvalidSpec, match="knows its classes"):
        load(path, classes=["a", "b"])


def test_labels_without_names_may_be_named(saved: Make) -> None:
    path = saved("BertForSequenceClassification", num_labels=3)
    assert load(path).info.classes == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert load(path, options={"classes": ["a", "b", "c"]}).info.classes == ("a", "b", "c")


def test_labels_that_do_not_exclude_each_other(saved: Make) -> None:
    path = saved("BertForSequenceClassification", labels=("x", "y", "z"), problem_type="multi_label_classification")
    p = torch.sigmoid(own(path, "BertForSequenceClassification", TEXTS)[0].logits).numpy()
    found = load(path).predict(batch(TEXTS)).columns
    for position, label in enumerate("xyz"):
        assert found.column(f"prediction_{label}").to_pylist() == (p[:, position] > 0.5).astype(int).tolist()
        assert np.allclose(found.column(f"probability_{label}").to_pylist(), p[:, position], atol=1e-6)


def test_one_number_is_a_regression(saved: Make) -> None:
    path = saved("BertForSequenceClassification", num_labels=1)
    model = load(path)
    wanted = own(path, "BertForSequenceClassification", TEXTS)[0].logits.numpy()[:, 0]
    assert np.allclose(model.predict(batch(TEXTS)).columns.column("prediction").to_pylist(), wanted, atol=1e-6)
    assert model.info.task == "regression"
    with pytest.raises(InvalidSpec, match="regression, has no threshold"):
        load(path, threshold=0.5)


# ---- the column of text


def test_a_missing_text_is_a_rejected_row(saved: Make) -> None:
    model = load(saved("BertModel"), features=["review"])
    found = model.predict(batch(["good bread", None, "the mill"], "review"))
    assert found.row_errors == {1: "column 'review' is missing: there is no text"}
    without = model.predict(batch(["good bread", "the mill"], "review")).columns
    assert found.columns.column(0)[0] == without.column(0)[0]
    assert found.columns.column(0)[2] == without.column(0)[1]
    assert model.predict(batch([None, None], "review")).columns.num_rows == 2


def test_it_takes_one_column_of_text(saved: Make) -> None:
    info = load(saved("BertModel")).info
    assert (info.takes_all, info.takes_text, info.inputs) == (True, True, ())
    info = load(saved("BertModel"), features=["review"]).info
    assert (info.takes_all, info.takes_text, info.inputs) == (False, False, (Field(name="review", type="string"),))
    with pytest.raises(InvalidSpec, match="names 2 columns but the model takes one"):
        load(saved("BertModel"), features=["a", "b"])
    encoded = pa.RecordBatch.from_arrays([pa.array(TEXTS).dictionary_encode()], names=["text"])
    assert bits(load(saved("BertModel")).predict(encoded)) == bits(load(saved("BertModel")).predict(batch(TEXTS)))


# ---- what stands together in one call


def test_calls_are_of_texts_of_one_length_and_order_is_kept(saved: Make) -> None:
    encoder = TextEncoder(tokenizer(), LIMIT)
    many = encoder.encode([*texts(150), "stone " * 90])
    seen, widths = [], []
    for places, inputs in encoder.batches(many):
        assert len(places) <= 32
        seen += places.tolist()
        widths.append(inputs["input_ids"].shape[1])
        for row, place in enumerate(places.tolist()):
            ids = list(many[place][0])
            assert inputs["input_ids"][row].tolist() == ids + [0] * (widths[-1] - len(ids))
            assert inputs["attention_mask"][row].sum() == len(ids)
    assert sorted(seen) == list(range(151))
    lengths = [len(many[place][0]) for place in seen]
    assert lengths == sorted(lengths)
    assert widths[0] < widths[-1] == LIMIT
    model = load(saved("BertModel"))
    shuffled = list(reversed(texts(150)))
    forward = model.predict(batch(texts(150))).columns.column(0).to_pylist()
    backward = model.predict(batch(shuffled)).columns.column(0).to_pylist()
    assert np.allclose(forward, backward[::-1], atol=1e-6)


def test_memory_of_a_call_is_bounded() -> None:
    encoder = TextEncoder(tokenizer(), 10_000)
    sizes = [inputs["input_ids"].size for _, inputs in encoder.batches([([5] * 3_000, [0] * 3_000)] * 12)]
    assert sum(sizes) == 36_000
    assert max(sizes) <= 16_384


# ---- folders


def test_pickled_weights_are_refused(saved: Make, tmp_path: Path) -> None:
    path = changed(saved("BertModel"), tmp_path / "m")
    os.rename(Path(path, "model.safetensors"), Path(path, "pytorch_model.bin"))
    assert TransformersFlavor.matches(b"", path)
    with pytest.raises(ModelUnusable, match=r"no model\.safetensors, and pytorch_model\.bin is not opened") as caught:
        load(path)
    assert "save_pretrained" in str(caught.value.remedy)
    Path(path, "pytorch_model.bin").unlink()
    with pytest.raises(ModelUnusable, match=r"has no model\.safetensors"):
        load(path)
    Path(path, "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(ModelUnusable, match=r"one\.safetensors is not there"):
        load(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_the_folder_is_never_run(saved: Make, tmp_path: Path, name: str) -> None:
    source = saved("BertModel")
    said = json.loads(Path(source, name).read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}}
    path = changed(source, tmp_path / "m", **{name.replace(".json", "_json"): said})
    Path(path, "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelUnusable, match=f"{name} wants Python code") as caught:
        load(path)
    assert "module:Class" in str(caught.value.remedy)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_lacking_are_not_made_up(saved: Make, tmp_path: Path) -> None:
    """transformers would give a classifier random weights and a warning."""
    source = saved("BertModel")
    said = json.loads(Path(source, "config.json").read_text()) | {"architectures": ["BertForSequenceClassification"]}
    with pytest.raises(ModelUnusable, match=r"lacks 2 weight\(s\) of the network, such as classifier"):
        load(changed(source, tmp_path / "m", config_json=said))


@pytest.mark.parametrize(
    "files, words",
    [
        (
            {"modules_json": [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "1"}]},
            "runs Transformer, Dense",
        ),
        ({"modules_json": [1]}, "does not list modules"),
        ({"config_json": None}, r"config\.json is not there"),
        ({"config_json": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}}, "GPT2LMHeadModel: only"),
        (
            {"config_json": {"model_type": "bert", "architectures": ["BertForTokenClassification"]}},
            "ForTokenClassification",
        ),
        ({"config_json": {"model_type": "nothing-known"}}, "cannot load"),
        ({"tokenizer_json": {"version": "1.0"}}, "cannot load"),
    ],
)
def test_folders_that_cannot_be_scored(saved: Make, tmp_path: Path, files: dict[str, Any], words: str) -> None:
    path = changed(saved("BertModel"), tmp_path / "m", **files)
    with pytest.raises(ModelUnusable, match=words) as caught:
        load(path)
    assert str(tmp_path / "m") in str(caught.value)
    assert caught.value.remedy


def test_pooling_that_is_not_known(saved: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="pools by weightedmean"):
        load(sentence_folder(saved("BertModel"), tmp_path / "m", {"pooling_mode": "weightedmean"}))


@pytest.mark.parametrize("percent", [3, 60, 97])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_say_so(saved: Make, tmp_path: Path, name: str, percent: int) -> None:
    path = changed(saved("BertModel"), tmp_path / "m")
    whole = Path(path, name).read_bytes()
    Path(path, name).write_bytes(whole[: len(whole) * percent // 100])
    assert TransformersFlavor.matches(b"", path)
    with pytest.raises(ModelUnusable, match=re.escape(path)) as caught:
        load(path)
    assert caught.value.remedy


def test_folders_of_others_are_not_taken(tmp_path: Path) -> None:
    for name, content in (
        ("MLmodel", "flavors: {}"),
        ("config.json", "{}"),
        ("config.json", "[1]"),
        ("data.json", "1"),
    ):
        folder = tmp_path / f"{name}-{len(content)}"
        folder.mkdir()
        (folder / name).write_text(content)
        assert not TransformersFlavor.matches(b"", str(folder))


def test_nothing_is_ever_fetched(saved: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    assert load(saved("BertModel")).predict(batch(TEXTS)).columns.num_rows == len(TEXTS)


_FORKED = """
import json, os, sys
import tidemill.flavors.transformers_library
threads = len(os.listdir("/proc/self/task"))
read, write = os.pipe()
if os.fork() == 0:
    import pyarrow as pa
    from tidemill.flavors.transformers import TransformersFlavor
    model = TransformersFlavor().load(sys.argv[1], {})
    found = model.predict(pa.RecordBatch.from_pydict({"text": ["good bread", "the mill"] * 40})).columns
    os.write(write, json.dumps([found.num_rows, len(os.listdir("/proc/self/task"))]).encode())
    os._exit(0)
os.close(write)
print(json.dumps([threads, "transformers" in sys.modules, json.load(os.fdopen(read))]))
"""


def test_preloading_starts_no_thread_and_survives_a_fork(saved: Make) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _FORKED, saved("BertModel")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    threads, preloaded, (rows, _) = json.loads(done.stdout)
    assert (threads, preloaded, rows) == (1, True, 80)
