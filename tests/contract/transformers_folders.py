"""Folders of transformers: tiny networks with random weights, made here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from tidemill.flavors.transformers import TransformersFlavor
from tidemill.ports.flavor import Model

Make = Callable[..., str]

WORDS = "the a tide mill grinds when water turns bad good very not is was slow fast bread stone wheel".split()


TEXTS = ["the mill is slow", "good bread", "", "a very very good tide", "zebra !", "stone " * 60, "good bread"]


LIMIT = 24


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=LIMIT, **names)


def network(kind: str, **config: Any) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings = transformers.BertConfig(
        vocab_size=4 + len(WORDS), max_position_embeddings=40, initializer_range=0.8, **sizes, **config
    )
    return getattr(transformers, kind)(settings).eval()


def changed(path: str, target: Path, **files: Any) -> str:
    """A copy of a folder with some JSON files written anew; None takes a file away."""
    shutil.copytree(path, target)
    for name, content in files.items():
        place = target / name.replace("__", "/").replace("_json", ".json")
        place.parent.mkdir(exist_ok=True)
        place.unlink() if content is None else place.write_text(json.dumps(content))
    return str(target)


def sentence_folder(path: str, target: Path, pooling: Any, *, normalized: bool = True, **files: Any) -> str:
    kinds = [("sentence_transformers.models.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")]
    kinds += [("sentence_transformers.models.Normalize", "2_Normalize")] if normalized else []
    modules = [{"idx": n, "name": str(n), "path": folder, "type": kind} for n, (kind, folder) in enumerate(kinds)]
    return changed(path, target, modules_json=modules, **{"1_Pooling__config_json": pooling}, **files)


def batch(values: Sequence[str | None], name: str = "text") -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.string())], names=[name])


def load(path: str, **options: Any) -> Model:
    """On the CPU, of which PyTorch itself was asked for what is expected."""
    return TransformersFlavor().load(path, {"device": "cpu", **options})


def maker(root: Path) -> Make:
    """Makes the folder of a network, once for each."""

    @cache
    def make(kind: str, **config: Any) -> str:
        folder = root / f"{kind}-{len(list(root.iterdir()))}"
        labels = config.pop("labels", None)
        if labels:
            config |= {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
        network(kind, **config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return str(folder)

    return make
