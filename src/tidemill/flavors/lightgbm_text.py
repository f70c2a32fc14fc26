"""LightGBM's text format of models: what it says of itself, and whether it is whole.

The library crashes on a damaged file instead of refusing it. So structure is checked first: every tree is
there, has the size that the header announces, and its arrays have lengths and indices that fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tidemill.domain.errors import InvalidSpec, ModelUnusable

Number = TypeVar("Number", int, float)

BEGINNINGS = (b"tree\n", b"tree\r\n")
_REQUIRED = ("num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "feature_names", "feature_infos")
_CATEGORICAL = re.compile(r"^\[categorical_(?:feature|column): ([\d,]*)\]\s*$", re.MULTILINE)
_CATEGORIES_KEY = "pandas_categorical:"


class _DamageError(Exception):
    """What is wrong with the text."""


@dataclass(frozen=True, kw_only=True)
class BoosterText:
    """What the model file says. `infos` has the range of a number or the codes of a category by feature."""

    features: tuple[str, ...]
    infos: tuple[str, ...]
    objective: str
    """First word of the objective; empty if the model was trained with a function of one's own."""
    objective_words: tuple[str, ...]
    """Its other words, such as "sigmoid:1"."""
    per_iteration: int
    """Trees of one round of training."""
    averaged: bool
    """Whether a prediction is the mean of the rounds, not their sum."""
    width: int
    trees: int
    leaves: int
    """Most leaves that a tree has."""
    listed_categorical: tuple[int, ...]
    """Positions that were categorical in training, as the parameters say."""
    pandas_categories: tuple[tuple[Any, ...], ...]
    """Categories of each column that pandas held as such, in column order; a code is a position."""
    codes_expected: bool
    """Whether there are categories but the file has no list of them: inputs must be codes already."""


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is a text model."""
    return head.startswith(BEGINNINGS) and b"version=" in head[:64]


def read(text: bytes, path: str) -> BoosterText:
    """Read the model and check that it is whole. Raises ModelUnusable naming `path` and what is wrong."""
    try:
        return _read(text)
    except (_DamageError, ValueError) as exc:
        raise ModelUnusable(
            f"{path} is not a whole LightGBM model: {exc}.",
            remedy="Copy or save the model again; it must end with its parameters.",
        ) from exc


def _read(text: bytes) -> BoosterText:
    if not looks_like(text):
        raise _DamageError("it does not begin with 'tree' and a version")
    if b"\r" in text:
        raise _DamageError("its line ends were changed on the way, so that trees are not where the header says")
    if b"\0" in text:
        raise _DamageError("it has zero bytes")
    end = text.find(b"\nend of trees")
    if end < 0:
        raise _DamageError("the line 'end of trees' is missing")
    start = text.find(b"\nTree=")
    start = end if start < 0 or start > end else start
    header = _pairs(text[:start].decode())
    missing = [key for key in _REQUIRED if key not in header]
    if missing:
        raise _DamageError(f"the header lacks {', '.join(missing)}")
    blocks = _blocks(text[start + 1 : end + 1], header.get("tree_sizes"))
    features = tuple(header["feature_names"].split(" "))
    infos = tuple(header["feature_infos"].split(" "))
    count = int(header["max_feature_idx"]) + 1
    if len(features) != count or len(infos) != count:
        raise _DamageError(f"{count} features are announced but {len(features)} named and {len(infos)} described")
    per_iteration = int(header["num_tree_per_iteration"])
    if per_iteration < 1 or len(blocks) % per_iteration:
        raise _DamageError(f"{len(blocks)} trees are no multiple of {per_iteration} per iteration")
    leaves = [_check_tree(block, number, count) for number, block in enumerate(blocks)]
    tail = text[end:].decode()
    _check_tail(tail)
    categories = _categories(tail)
    return BoosterText(
        features=features,
        infos=infos,
        objective=header.get("objective", "").partition(" ")[0],
        objective_words=tuple(header.get("objective", "").split()[1:]),
        per_iteration=per_iteration,
        averaged=b"\naverage_output\n" in text[:start],
        width=int(header["num_class"]),
        trees=len(blocks),
        leaves=max(leaves, default=0),
        listed_categorical=_listed(tail),
        pandas_categories=categories or (),
        codes_expected=categories is None and any(not info.startswith("[") and info != "none" for info in infos),
    )


def tree_texts(text: bytes) -> list[dict[str, str]]:
    """Key and value of each line of each tree, of a text that `read` found whole."""
    begin, end = text.find(b"\nTree="), text.find(b"\nend of trees")
    if begin < 0 or begin > end:
        return []
    return [_pairs(block.decode()) for block in text[begin + 1 : end + 1].split(b"Tree=")[1:]]


def _pairs(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.split("\n"))
    return {key: value for key, sign, value in pairs if sign}


def _blocks(text: bytes, sizes: str | None) -> list[bytes]:
    """The text of each tree; by announced sizes where they are, as the library splits it."""
    if sizes is None:
        return [b"Tree=" + block for block in text.split(b"Tree=")[1:]]
    blocks: list[bytes] = []
    position = 0
    for size in map(int, sizes.split()):
        block = text[position : position + size]
        if len(block) != size or not block.startswith(b"Tree=%d\n" % len(blocks)):
            raise _DamageError(f"tree {len(blocks)} is not where the header says")
        blocks.append(block)
        position += size
    if text[position:].strip():
        raise _DamageError(f"there is more than the {len(blocks)} trees that the header says")
    return blocks


def _check_tree(block: bytes, number: int, features: int) -> int:
    """Check lengths and indices of one tree's arrays; the number of its leaves."""
    tree = _pairs(block.decode())
    try:
        leaves, categorical = int(tree["num_leaves"]), int(tree["num_cat"])
        splits = leaves - 1
        if leaves < 1:
            raise _DamageError(f"it has {leaves} leaves")
        _numbers(tree, "leaf_value", leaves, float)
        float(tree.get("shrinkage", "1"))
        if splits:
            _indices(tree, "split_feature", splits, 0, features - 1)
            _indices(tree, "left_child", splits, -leaves, splits - 1)
            _indices(tree, "right_child", splits, -leaves, splits - 1)
            _numbers(tree, "threshold", splits, float)
            kinds = _indices(tree, "decision_type", splits, -128, 127)
            _check_categories(tree, categorical, np.array(kinds))
            _check_statistics(tree, leaves)
        if tree.get("is_linear", "0").strip() not in ("0", ""):
            _check_linear(tree, leaves, features)
    except (KeyError, ValueError, _DamageError) as exc:
        what = f"{exc.args[0]} is missing" if isinstance(exc, KeyError) else exc
        raise _DamageError(f"tree {number} is damaged: {what}") from exc
    return leaves


def _numbers(tree: Mapping[str, str], key: str, count: int, kind: Callable[[str], Number]) -> list[Number]:
    words = tree[key].split(" ")
    if len(words) != count:
        raise _DamageError(f"{key} has {len(words)} values, not {count}")
    return list(map(kind, words))  # Of so few numpy takes five times as long.


def _indices(tree: Mapping[str, str], key: str, count: int, low: int, high: int) -> list[int]:
    found = _numbers(tree, key, count, int)
    if min(found) < low or max(found) > high:
        raise _DamageError(f"{key} points outside of {low} to {high}")
    return found


def _check_statistics(tree: Mapping[str, str], leaves: int) -> None:
    """Arrays that no prediction needs, but the library reads."""
    for key in ("split_gain", "internal_value", "internal_weight", "internal_count"):
        if tree.get(key):
            _numbers(tree, key, leaves - 1, float)
    for key in ("leaf_weight", "leaf_count"):
        if tree.get(key):
            _numbers(tree, key, leaves, float)


def _check_categories(tree: Mapping[str, str], count: int, kinds: np.ndarray[Any, Any]) -> None:
    """A categorical split's threshold is a position in `cat_boundaries`, which cut `cat_threshold`."""
    is_categorical = (kinds & 1).astype(bool)
    if not count:
        if is_categorical.any():
            raise _DamageError("a categorical split has no categories")
        return
    borders = _indices(tree, "cat_boundaries", count + 1, 0, 2**31)
    if borders[0] != 0 or (np.diff(borders) < 0).any():
        raise _DamageError("cat_boundaries do not ascend")
    _indices(tree, "cat_threshold", borders[-1], 0, 2**32 - 1)
    positions = np.array(_numbers(tree, "threshold", len(kinds), float))[is_categorical]
    if positions.size and (positions.min() < 0 or positions.max() > count - 1):
        raise _DamageError("a categorical split points outside of its categories")


def _check_linear(tree: Mapping[str, str], leaves: int, features: int) -> None:
    count = sum(_indices(tree, "num_features", leaves, 0, features))
    _numbers(tree, "leaf_const", leaves, float)
    for key in ("leaf_features", "leaf_coeff"):
        if len(tree[key].split()) != count:
            raise _DamageError(f"{key} has {len(tree[key].split())} values, not {count}")
    if count:
        words = " ".join(tree["leaf_features"].split())
        _indices({"leaf_features": words}, "leaf_features", count, 0, features - 1)


def _check_tail(tail: str) -> None:
    """What follows the trees: importances, parameters, categories; the library writes all or none."""
    head, parameters, rest = tail.partition("\nend of parameters")
    if not parameters and ("\nfeature_importances" in head or "\nparameters" in head):
        raise _DamageError("the line 'end of parameters' is missing")
    rest = rest.strip() if parameters else head.partition("\nend of trees")[2].strip()
    if rest and not rest.startswith(_CATEGORIES_KEY):
        raise _DamageError("its end is cut off")


def _listed(tail: str) -> tuple[int, ...]:
    found = _CATEGORICAL.search(tail)
    return tuple(int(word) for word in found[1].split(",") if word) if found else ()


def _categories(tail: str) -> tuple[tuple[Any, ...], ...] | None:
    position = tail.rfind("\n" + _CATEGORIES_KEY)
    if position < 0:
        return None
    try:
        found = json.loads(tail[position + 1 + len(_CATEGORIES_KEY) :])
    except json.JSONDecodeError as exc:
        raise _DamageError("the list of pandas categories is cut off") from exc
    return tuple(tuple(each) for each in found or ())


def assign_categories(text: BoosterText, columns: Sequence[str] = ()) -> dict[int, tuple[Any, ...]]:
    """Which feature has which categories: feature position -> categories.

    `columns` are the features that pandas held as categories, in order, if the user says so.
    The file lists categories of pandas columns in order but not of which columns they are (ordered ones
    are numbers to the model). Their codes seen in training decide; raises ModelUnusable if they allow
    several answers.
    """
    wanted = text.pandas_categories
    if columns:
        return _said(text, columns)
    if not wanted:
        return {}
    listed = [position for position in text.listed_categorical if position < len(text.features)]
    if len(listed) == len(wanted) and all(_fits(text.infos[p], c) for p, c in zip(listed, wanted, strict=True)):
        return dict(zip(listed, wanted, strict=True))
    found = _assignments(text.infos, wanted, set(listed))
    if len(found) != 1:
        raise ModelUnusable(
            f"The model has {len(wanted)} pandas categories, but which columns they are of "
            f"{'cannot be told' if found else 'does not fit'} from the model file.",
            remedy="Name the columns that pandas held as categories, in order, as predict option categorical_features.",
        )
    return found[0]


def _said(text: BoosterText, columns: Sequence[str]) -> dict[int, tuple[Any, ...]]:
    unknown = [name for name in columns if name not in text.features]
    if unknown or len(columns) != len(text.pandas_categories):
        count = len(text.pandas_categories)
        raise InvalidSpec(
            f"categorical_features must be {count} of the model's features, not {list(columns)!r}.",
            remedy="Name the columns that pandas held as categories in training, and no others.",
        )
    positions = sorted(text.features.index(name) for name in columns)
    return dict(zip(positions, text.pandas_categories, strict=True))


def _assignments(
    infos: Sequence[str], wanted: Sequence[Sequence[Any]], listed: set[int], start: int = 0
) -> list[dict[int, tuple[Any, ...]]]:
    """Up to two ways to give the categories to features, in order; every code list must get one."""
    if not wanted:
        return [] if any(position in listed for position in range(start, len(infos))) else [{}]
    found: list[dict[int, tuple[Any, ...]]] = []
    for position in range(start, len(infos) - len(wanted) + 1):
        if _fits(infos[position], wanted[0]):
            rest = _assignments(infos, wanted[1:], listed, position + 1)
            found += [{position: tuple(wanted[0]), **each} for each in rest]
        if len(found) > 1 or position in listed:
            break
    return found[:2]


def _fits(info: str, categories: Sequence[Any]) -> bool:
    """Whether the values that training saw of a feature can be codes of these categories."""
    if info == "none":
        return True
    try:
        words = info[1:-1].split(":") if info.startswith("[") else info.split(":")
        codes = [float(word) for word in words]
    except ValueError:
        return False
    return all(code == int(code) and -1 <= code < len(categories) for code in codes)
