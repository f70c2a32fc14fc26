"""Folders of Hugging Face transformers: embeddings of sentences, and classifiers of texts.

Nothing is ever fetched, no code that a folder brings is run, no pickle is opened: JSON, safetensors and
the tokenizer's own files are all that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tidemill.domain.errors import InvalidSpec, ModelUnusable
from tidemill.domain.signature import Field, ModelInfo
from tidemill.flavors import transformers_folder
from tidemill.flavors.bad_rows import is_null, predicted_without
from tidemill.flavors.decision import ClassRule, LabelsRule, ValueRule
from tidemill.flavors.embedding import EmbeddingRule
from tidemill.flavors.matrix import Array, plain, to_arrow
from tidemill.flavors.options import PredictOptions
from tidemill.flavors.torch_device import Device
from tidemill.flavors.transformers_folder import Dense, Folder
from tidemill.flavors.transformers_text import OF_CPU, OF_GPU, TextEncoder, length_limit
from tidemill.ports.flavor import Flavor, Model, Predicted
from tidemill.registry import missing_extra

OPTIONS = ("device", "max_length")
BATCH_ROWS = 256
"""Enough to find texts of one length, few enough for every core to get a batch."""
GPU_BATCH_ROWS = 2_048
ROWS_PER_CHUNK = 4_096

_UNUSED = ("pooler.",)
"""Weights that embeddings do without: folders often lack them."""

Rule = ClassRule | ValueRule | LabelsRule | EmbeddingRule


class TransformersFlavor(Flavor):
    """Folders with config.json and model.safetensors, perhaps of sentence-transformers."""

    name: ClassVar[str] = "transformers"
    preload: ClassVar[tuple[str, ...]] = ("tidemill.flavors.transformers_library",)

    @classmethod
    def matches(cls, head: bytes, path: str) -> bool:
        return transformers_folder.looks_like(path)

    def load(self, path: str, options: Mapping[str, Any]) -> Model:
        folder = transformers_folder.read(path)
        # Before anything of it is imported: it keeps the libraries off the network.
        import tidemill.flavors.transformers_library  # noqa: F401

        try:
            import torch
            import transformers
        except ModuleNotFoundError as exc:
            raise missing_extra("transformers", exc) from exc
        chosen = PredictOptions.of(options)
        chosen.refuse_extra("transformers", OPTIONS)
        device = Device(torch, chosen.extra.get("device"))
        network, tokenizer = _loaded(torch, transformers, folder)
        return TextModel(folder, network, tokenizer, device, chosen)


def _loaded(torch: Any, transformers: Any, folder: Folder) -> tuple[Any, Any]:
    """The network in eval mode, and its tokenizer. Raises ModelUnusable."""
    transformers.utils.logging.disable_progress_bar()
    classifier = folder.task == "classification"
    kind = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModel
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.weights, **safe)
        network, found = kind.from_pretrained(
            folder.weights, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **safe
        )
    except ModuleNotFoundError as exc:
        raise missing_extra("transformers", exc) from exc
    except Exception as exc:
        words = (str(exc).strip().splitlines() or ["no message"])[0]
        raise ModelUnusable(
            f"transformers cannot load {folder.path}: {type(exc).__name__}: {words}",
            remedy="Copy the whole folder again, or save it with the transformers that is installed here.",
        ) from exc
    lacking = sorted(name for name in found["missing_keys"] if classifier or not name.startswith(_UNUSED))
    if lacking:
        # transformers would go on with random numbers.
        raise ModelUnusable(
            f"{folder.path} lacks {len(lacking)} weight(s) of the network, such as {lacking[0]}.",
            remedy="Save the whole model that was trained: model.save_pretrained(folder).",
        )
    if not tokenizer.is_fast:
        raise ModelUnusable(
            f"{folder.path} has no tokenizer.json.",
            remedy="Save it with a fast tokenizer: AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
        )
    # For generating texts; here it would only keep memory.
    network.config.use_cache = False
    return network.eval(), tokenizer


class TextModel(Model):
    """A network and its tokenizer; thread-safe, each call runs in its own thread alone."""

    def __init__(self, folder: Folder, network: Any, tokenizer: Any, device: Device, options: PredictOptions) -> None:
        import tokenizers
        import torch
        import transformers

        self._torch, self._folder, self._network, self._device = torch, folder, network.to(device.place), device
        most = _max_length(options.extra.get("max_length"), length_limit(network.config, tokenizer, folder.max_length))
        self._encoder = TextEncoder(tokenizer, most, OF_GPU if device.is_gpu else OF_CPU)
        self._rule: Rule
        self._head: Callable[[Any, Any], Any]
        self._steps = [_step(torch, step, device.place) for step in folder.steps]
        if folder.task == "embedding":
            self._head = self._embeddings
            self._rule = EmbeddingRule.of(self._answers(["a"]).shape[1], options)
        else:
            self._rule, activation = _classifier(torch, folder.path, network.config, options)
            self._head = lambda output, mask: activation(output.logits)
        versions = {"torch": torch, "transformers": transformers, "tokenizers": tokenizers}
        self.info = ModelInfo(
            flavor="transformers",
            inputs=_inputs(options.features),
            outputs=self._rule.outputs,
            takes_all=not options.features,
            takes_text=not options.features,
            task=self._rule.task,
            classes=self._rule.labels,
            positive_class=self._rule.positive,
            layout="threads",
            on_gpu=device.is_gpu,
            batch_rows=GPU_BATCH_ROWS if device.is_gpu else BATCH_ROWS,
            rows_per_chunk=ROWS_PER_CHUNK,
            libraries=tuple((name, library.__version__) for name, library in versions.items()),
            notes=(
                *self._rule.notes,
                *folder.notes,
                f"the first {most} tokens of a text count, the rest is cut off",
                *device.notes,
            ),
        )

    def predict(self, batch: pa.RecordBatch) -> Predicted:
        if batch.num_columns != 1:
            raise ValueError(f"the model takes one column of text but got {batch.num_columns}")
        message = f"column {batch.schema.names[0]!r} is missing: there is no text"
        bad = dict.fromkeys(np.flatnonzero(is_null(batch.column(0))).tolist(), message)
        return predicted_without(batch, bad, self._rule, self._columns)

    def _columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Every text once, however often it comes."""
        texts = plain(batch.column(0)).to_pylist()
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        written = _written(self._rule, self._answers(list(places)))
        return written.take(to_arrow(np.array([places[text] for text in texts], np.int64)))

    def _answers(self, texts: Sequence[str]) -> Array:
        """What the head makes of each text: (texts, width) of float32."""
        if self._folder.lower:
            texts = [text.lower() for text in texts]
        encoded = self._encoder.encode([self._folder.prompt + text for text in texts])
        answers: Array | None = None
        for places, arrays in self._encoder.batches(encoded):
            with self._device.computing():
                inputs = {name: self._torch.from_numpy(array).to(self._device.place) for name, array in arrays.items()}
                found = self._head(self._network(**inputs), inputs["attention_mask"]).float().cpu().numpy()
            answers = np.empty((len(texts), found.shape[1]), np.float32) if answers is None else answers
            answers[places] = found
        assert answers is not None, "there is a text"
        return answers

    def _embeddings(self, output: Any, mask: Any) -> Any:
        """One vector for each text, of the vectors of its tokens."""
        torch, hidden = self._torch, output.last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        total, count = (hidden * weights).sum(1), weights.sum(1).clamp(min=1e-9)
        pooled = {
            "cls": lambda: hidden[:, 0],
            "max": lambda: hidden.masked_fill(weights == 0, float("-inf")).max(1).values,
            "mean": lambda: total / count,
            "mean_sqrt_len_tokens": lambda: total / torch.sqrt(count),
            "lasttoken": lambda: hidden[torch.arange(len(hidden)), mask.sum(1) - 1],
        }
        vectors = torch.cat([pooled[mode]() for mode in self._folder.pooling], dim=1)
        for step in self._steps:
            vectors = step(vectors)
        return vectors

    def close(self) -> None:
        self._device.close()


def _step(torch: Any, step: Dense | None, device: Any) -> Callable[[Any], Any]:
    """A layer over embeddings, or their normalisation. Raises ModelUnusable for weights that are not whole."""
    if step is None:
        return lambda vectors: torch.nn.functional.normalize(vectors, p=2, dim=1)
    from safetensors.torch import load_file

    try:
        found = load_file(step.weights)
        weight, bias = found["linear.weight"], found.get("linear.bias")
    except Exception as exc:
        raise ModelUnusable(
            f"{step.weights} cannot be loaded: {type(exc).__name__}: {exc}.", remedy="Copy the whole folder again."
        ) from exc
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in found.items()})
    return torch.nn.Sequential(layer, getattr(torch.nn, step.activation)()).eval().to(device)  # type: ignore[no-any-return]


def _inputs(features: Sequence[str]) -> tuple[Field, ...]:
    if len(features) > 1:
        raise InvalidSpec(
            f"features names {len(features)} columns but the model takes one of text.", remedy="Name the one with text."
        )
    return tuple(Field(name=name, type="string") for name in features)


def _max_length(asked: Any, limit: int) -> int:
    if asked is None:
        return limit
    if isinstance(asked, bool) or not isinstance(asked, int) or not 3 <= asked <= limit:
        raise InvalidSpec(
            f"max_length {asked!r} is not a number of tokens that the model takes.", remedy=f"Give 3 to {limit}."
        )
    return asked


def _classifier(torch: Any, path: str, config: Any, options: PredictOptions) -> tuple[Rule, Callable[[Any], Any]]:
    """What is written, and what makes it of the network's logits, as the configuration says."""
    width = int(config.num_labels)
    labels = [str(config.id2label.get(number, number)) for number in range(width)]
    if config.problem_type == "regression" or width == 1:
        return ValueRule.of(width, options, type="float", what=f"{path}, a regression,"), lambda logits: logits
    unnamed = labels == [f"LABEL_{number}" for number in range(width)] and bool(options.classes)
    names = width if unnamed else labels
    if config.problem_type == "multi_label_classification":
        return LabelsRule.of(names, options, probability_type="float"), torch.sigmoid
    rule = ClassRule.of(names, options, probability_type="float")
    return rule, lambda logits: torch.softmax(logits, dim=-1)


def _written(rule: Rule, answers: Array) -> pa.RecordBatch:
    if isinstance(rule, ClassRule):
        return rule.columns(rule.decide(answers), answers)
    if isinstance(rule, ValueRule):
        return rule.columns(answers, len(answers))
    return rule.columns(answers)
