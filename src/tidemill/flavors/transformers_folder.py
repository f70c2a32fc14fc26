"""What a folder of Hugging Face transformers says of itself: JSON read as JSON, no framework."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tidemill.domain.errors import ModelUnusable

Task = Literal["embedding", "classification"]

POOLING = ("cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken")
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How sentence-transformers named the modes in older folders, in the order in which they are joined."""
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "tf_model.h5", "flax_model.msgpack")
_CLASSIFIER = "ForSequenceClassification"
_ENCODERS = ("Model", "ForMaskedLM", "ForPreTraining")
_ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "Sigmoid", "SiLU")
_OWN_CODE = "Score it with a class of your own, module:Class, that calls what the model needs."


@dataclass(frozen=True, kw_only=True)
class Dense:
    """One more layer over an embedding, in a folder of its own. `activation` is a class of `torch.nn`."""

    weights: str
    activation: str


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A model that can be loaded: its weights and its code are known to be harmless.

    `weights` is the folder of the network itself; `pooling` are modes of POOLING, joined one after the other;
    `steps` are what becomes of an embedding then, None is its normalisation.
    """

    path: str
    weights: str
    config: Mapping[str, Any]
    task: Task
    pooling: tuple[str, ...] = ()
    steps: tuple[Dense | None, ...] = ()
    max_length: int | None = None
    """Tokens of a text, if sentence-transformers was told."""
    lower: bool = False
    prompt: str = ""
    """What comes before each text."""
    notes: tuple[str, ...] = ()


def looks_like(path: str) -> bool:
    """Whether a folder has the configuration of such a model. Reads nothing but that."""
    folder = Path(path)
    if not folder.is_dir():
        return False
    try:
        modules = _modules(folder)
        config = _object(folder / (modules[0][1] if modules else "") / "config.json")
    except ModelUnusable:
        return any(folder.joinpath(name).is_file() for name in ("model.safetensors", "modules.json"))
    return isinstance(config.get("model_type"), str)


def read(path: str) -> Folder:
    """The folder, checked. Raises ModelUnusable for damage, for pickled weights, for code that it brings, and
    for what is neither a text classifier nor a model of embeddings."""
    folder = Path(path)
    modules = _modules(folder)
    weights = folder / (modules[0][1] if modules else "")
    config = _object(weights / "config.json")
    _refuse_code(weights, config)
    _check_weights(weights)
    if modules:
        return _sentence_transformer(folder, weights, config, modules)
    if any(str(name).endswith(_CLASSIFIER) for name in config.get("architectures") or ()):
        return Folder(path=path, weights=path, config=config, task="classification")
    _refuse_heads(path, config)
    note = "no modules.json says how tokens become one embedding: their mean is taken"
    return Folder(path=path, weights=path, config=config, task="embedding", pooling=("mean",), notes=(note,))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ModelUnusable(f"{path} is not there.", remedy="Copy the whole folder of the model.") from exc
    except (OSError, ValueError) as exc:
        raise ModelUnusable(f"{path} is damaged: {exc}.", remedy="Copy the folder of the model again.") from exc


def _object(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise ModelUnusable(f"{path} is no JSON object.", remedy="Copy the folder of the model again.")
    return found


def _optional(path: Path) -> dict[str, Any]:
    return _object(path) if path.is_file() else {}


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(class, folder) of the modules that sentence-transformers runs one after the other; none without it."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        found = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in _json(path)]
    except (TypeError, KeyError) as exc:
        raise ModelUnusable(f"{path} does not list modules.", remedy="Save the model again.") from exc
    for _, place in found:
        # Only what lies in the folder has part in its digest, and was sent by whoever sent the model.
        if os.path.isabs(place) or os.path.normpath(place).startswith(os.pardir):
            raise ModelUnusable(f"{path} names a module outside its folder, {place!r}.", remedy="Save the model again.")
    return found


def _refuse_code(weights: Path, config: Mapping[str, Any]) -> None:
    for name, said in (
        ("config.json", config),
        ("tokenizer_config.json", _optional(weights / "tokenizer_config.json")),
    ):
        if said.get("auto_map"):
            raise ModelUnusable(
                f"{weights / name} wants Python code that comes with the model (auto_map); it is not run.",
                remedy=_OWN_CODE,
            )


def _check_weights(weights: Path) -> None:
    index = weights / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(_object(index).get("weight_map", {}).values()))
        lacking = [name for name in shards if not (weights / name).is_file()]
        if lacking or not shards:
            what = f"{weights / lacking[0]} is not there" if lacking else f"{index} lists no weights"
            raise ModelUnusable(f"{what}.", remedy="Copy the whole folder of the model.")
        return
    if (weights / "model.safetensors").is_file():
        return
    pickled = [name for name in _PICKLES if (weights / name).is_file()]
    if pickled:
        raise ModelUnusable(
            f"{weights} has no model.safetensors, and {pickled[0]} is not opened: it can run code, or is of another "
            "framework.",
            remedy="Load it where you trust it, and save it anew: model.save_pretrained(folder).",
        )
    raise ModelUnusable(f"{weights} has no model.safetensors.", remedy="Copy the whole folder of the model.")


def _refuse_heads(path: str, config: Mapping[str, Any]) -> None:
    architecture = next(iter(config.get("architectures") or ()), "Model")
    if not architecture.endswith(_ENCODERS) or architecture.endswith("LMHeadModel"):
        raise ModelUnusable(
            f"{path} is a {architecture}: only {_CLASSIFIER[3:]} and embeddings are known here.", remedy=_OWN_CODE
        )


def _sentence_transformer(
    folder: Path, weights: Path, config: Mapping[str, Any], modules: list[tuple[str, str]]
) -> Folder:
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not {*kinds[2:]} <= {"Dense", "Normalize"}:
        raise ModelUnusable(
            f"{folder / 'modules.json'} runs {', '.join(kinds)}; known are Transformer, Pooling, Dense and Normalize.",
            remedy=_OWN_CODE,
        )
    limits = _optional(weights / "sentence_bert_config.json")
    pooling = _object(folder / modules[1][1] / "config.json")
    prompt = _prompt(_optional(folder / "config_sentence_transformers.json"))
    if prompt and pooling.get("include_prompt") is False:
        raise ModelUnusable(f"{folder} leaves its prompt out of the mean.", remedy=_OWN_CODE)
    return Folder(
        path=str(folder),
        weights=str(weights),
        config=config,
        task="embedding",
        pooling=_pooling(folder / modules[1][1] / "config.json", pooling),
        steps=tuple(_dense(folder / place) if kind == "Dense" else None for kind, place in modules[2:]),
        max_length=limits.get("max_seq_length"),
        lower=bool(limits.get("do_lower_case")),
        prompt=prompt,
    )


def _pooling(path: Path, said: Mapping[str, Any]) -> tuple[str, ...]:
    modes = said.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if said.get(flag)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in POOLING]
    if unknown:
        raise ModelUnusable(f"{path} pools by {unknown[0]}; known are {', '.join(POOLING)}.", remedy=_OWN_CODE)
    return modes


def _dense(folder: Path) -> Dense:
    said = _object(folder / "config.json")
    name = str(said.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = name.rpartition(".")[2]
    if not name.startswith("torch.nn.modules.") or activation not in _ACTIVATIONS or said.get("use_residual"):
        what = "a residual" if activation in _ACTIVATIONS else f"the activation {name}"
        raise ModelUnusable(f"{folder / 'config.json'} wants {what}, which is not known here.", remedy=_OWN_CODE)
    _check_weights(folder)
    return Dense(weights=str(folder / "model.safetensors"), activation=activation)


def _prompt(said: Mapping[str, Any]) -> str:
    name = said.get("default_prompt_name")
    return str((said.get("prompts") or {}).get(name, "")) if name else ""
