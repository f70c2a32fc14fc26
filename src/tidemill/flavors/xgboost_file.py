"""XGBoost's formats of models, JSON and UBJSON: what a file says of itself, and whether it is whole.

The library crashes, or never ends, on some files that were cut off or changed. So structure is checked
first: trees have the arrays and sizes that they announce, and no way leads in circles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tidemill.domain.errors import ModelUnusable
from tidemill.flavors import ubjson
from tidemill.flavors.matrix import Array

_JSON = re.compile(rb'\s*\{\s*"(?:version"\s*:\s*\[[\d\s,]*\]\s*,\s*")?learner"\s*:\s*\{')
_UBJSON = re.compile(rb"\{L\0{7}\x07learner\{")
_OLD_BINARY = re.compile(
    rb"(?:binf|bs64|.{136}[\x05-\x20]\0{7}(?:reg|binary|multi|rank|count|survival):[a-z]).{0,64}", re.DOTALL
)
"""Files of XGBoost before 3.1 that had no ending of JSON: a header of 136 bytes, then the objective's name."""

_NO_NODE = 2**31 - 1
_INDICES = ("left_children", "right_children", "split_indices")


class _DamageError(Exception):
    """What is wrong with the file."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What the model file says."""

    booster: str
    """gbtree, dart or gblinear."""
    objective: str
    features: int
    names: tuple[str, ...]
    """Of the features; empty if it was trained without."""
    types: tuple[str, ...]
    """A word for each feature ("float", "int", "i", "q", "c"), or empty."""
    categories: Mapping[int, Sequence[bytes] | Sequence[int]]
    """Of features by position: text, or whole numbers, in the order of their codes. Empty if the file
    lists none: XGBoost before 3.1 saved only codes."""
    classes: int
    """0 unless it tells apart more than two."""
    targets: int
    trees: int
    rounds: int | None
    """Rounds of boosting up to the best one, if training looked for it."""
    boosted: int | None
    """Rounds of boosting in all; files of older releases do not say."""
    classifier: bool
    """Whether scikit-learn's classifier saved it."""
    version: tuple[int, ...]

    @property
    def codes_expected(self) -> bool:
        """Whether there are categories but no list of them: inputs must be codes already."""
        return "c" in self.types and not self.categories


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is a model, of the old binary format too."""
    return any(pattern.match(head) for pattern in (_JSON, _UBJSON, _OLD_BINARY))


def read(content: bytes, path: str) -> tuple[ModelFile, Any]:
    """Read the model and check that it is whole: what it says, and its learner as it stands there. Raises
    ModelUnusable naming `path` and what is wrong."""
    if _OLD_BINARY.match(content[:512]):
        raise ModelUnusable(
            f"{path} has XGBoost's old binary format, which its releases since 3.1 cannot read.",
            remedy="Load it with the XGBoost that saved it, and save it as model.json or model.ubj.",
        )
    try:
        said = _parsed(content)
        return _read(said), said["learner"]
    except (_DamageError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as exc:
        what = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise ModelUnusable(
            f"{path} is not a whole XGBoost model: {what}.", remedy="Copy or save the model again."
        ) from exc


def _parsed(content: bytes) -> Any:
    return ubjson.loads(content) if _UBJSON.match(content) else json.loads(content)


def _read(said: Any) -> ModelFile:
    learner = said["learner"]
    parameters, attributes = learner["learner_model_param"], learner.get("attributes", {})
    booster = learner["gradient_booster"]
    features, classes = int(parameters["num_feature"]), int(parameters["num_class"])
    targets = int(parameters.get("num_target", "1"))
    names, types = tuple(learner.get("feature_names", ())), tuple(learner.get("feature_types", ()))
    for what, words in (("names", names), ("types", types)):
        if words and len(words) != features:
            raise _DamageError(f"{features} features are announced but there are {len(words)} {what}")
    width = max(classes, targets, 1)
    if booster["name"] == "gblinear":
        _check_linear(booster["model"], features, width)
    trees = _check_trees(booster, features, width)
    model = (booster.get("gbtree") or booster)["model"]
    borders = model.get("iteration_indptr", ())
    best = attributes.get("best_iteration")
    return ModelFile(
        booster=booster["name"],
        objective=learner["objective"]["name"],
        features=features,
        names=names,
        types=types,
        categories=_categories(model.get("cats", {}).get("enc", ()), features),
        classes=classes,
        targets=targets,
        trees=trees,
        rounds=None if best is None or booster["name"] == "gblinear" else int(best) + 1,
        boosted=len(borders) - 1 if len(borders) else None,
        classifier=json.loads(attributes.get("scikit_learn", "{}")).get("_estimator_type") == "classifier",
        version=tuple(int(each) for each in said["version"]),
    )


def _categories(said: Sequence[Any], features: int) -> dict[int, Sequence[bytes] | Sequence[int]]:
    if said and len(said) != features:
        raise _DamageError(f"{features} features are announced but the categories of {len(said)} listed")
    found: dict[int, Sequence[bytes] | Sequence[int]] = {}
    for position, each in enumerate(said):
        values = np.asarray(each["values"], np.int64)
        if "offsets" not in each:
            found[position] = [int(value) for value in values]
        elif len(borders := np.asarray(each["offsets"], np.int64)) > 1:
            text = values.astype(np.uint8).tobytes()
            if borders[0] != 0 or (np.diff(borders) < 0).any() or borders[-1] > len(text):
                raise _DamageError(f"the categories of feature {position} are cut wrongly")
            found[position] = [text[start:stop] for start, stop in pairwise(borders)]
    return found


def _check_linear(model: Any, features: int, width: int) -> None:
    weights = np.asarray(model["weights"], np.float64)
    if len(weights) != (features + 1) * width:
        raise _DamageError(f"it has {len(weights)} weights, not {(features + 1) * width}")


def _check_trees(booster: Any, features: int, width: int) -> int:
    """Check the trees of gbtree and dart; their number."""
    if booster["name"] == "gblinear":
        return 0
    model = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]
    trees, groups = model["trees"], _integers(model["tree_info"])
    count = int(model["gbtree_model_param"]["num_trees"])
    if not len(trees) == len(groups) == count:
        raise _DamageError(f"{count} trees are announced but there are {len(trees)}, for {len(groups)} groups")
    if count and not (groups.min() >= 0 and groups.max() < width):
        raise _DamageError(f"a tree belongs to none of the {width} outputs")
    borders = _integers(model.get("iteration_indptr", ()))
    if len(borders) and not (borders[0] == 0 and (np.diff(borders) >= 0).all() and borders[-1] == count):
        raise _DamageError("the rounds of boosting do not divide the trees")
    if booster["name"] == "dart" and len(booster["weight_drop"]) != count:
        raise _DamageError(f"{count} trees have {len(booster['weight_drop'])} weights")
    for number, tree in enumerate(trees):
        try:
            _check_tree(tree, features)
        except (_DamageError, ValueError, KeyError, TypeError, OverflowError) as exc:
            what = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)
            raise _DamageError(f"tree {number} is damaged: {what}") from exc
    return count


def _integers(values: Any) -> Array:
    return np.asarray(values, np.int64)


def _check_tree(tree: Any, features: int) -> None:
    """Check the lengths and indices of one tree's arrays."""
    parameters = tree["tree_param"]
    nodes, leaf_width = int(parameters["num_nodes"]), int(parameters.get("size_leaf_vector", "0"))
    left, right, splits = (_integers(tree[key]) for key in _INDICES)
    conditions, defaults = np.asarray(tree["split_conditions"], np.float64), _integers(tree["default_left"])
    if nodes < 1 or {len(each) for each in (left, right, splits, conditions, defaults)} != {nodes}:
        raise _DamageError(f"{nodes} nodes are announced, which is not what there is")
    if int(parameters["num_feature"]) != features or int(parameters.get("num_deleted", "0")) not in range(nodes):
        raise _DamageError("its parameters are not the model's")
    inner = left != -1
    if leaf_width > 1:
        _check_vectors(tree, leaf_width, right[~inner])
    if (splits[inner] < 0).any() or (splits[inner] >= features).any():
        raise _DamageError(f"it splits by a feature beyond the {features}")
    # Who has one parent at most, and the root none, can be reached in one way only: walking down ends.
    children = np.concatenate([left[inner], right[inner]])
    if (children < 1).any() or (children >= nodes).any() or np.bincount(children, minlength=1).max() > 1:
        raise _DamageError("its branches do not make a tree")
    _check_parents(_integers(tree["parents"]), inner, left, right)
    _check_categories(tree, nodes)


def _check_vectors(tree: Any, width: int, leaves: Array) -> None:
    """Leaves of several values say where theirs are in a list of all."""
    count = len(tree["leaf_weights"])
    if count % width or (leaves < 0).any() or (leaves >= count // width).any():
        raise _DamageError(f"its leaves do not have {width} values each")


def _check_parents(parents: Array, inner: Array, left: Array, right: Array) -> None:
    own = np.flatnonzero(inner)
    known = (parents >= 0) & ((parents < len(left)) | (parents == _NO_NODE))
    if len(parents) != len(left) or parents[0] not in (-1, _NO_NODE) or not known[1:].all():
        raise _DamageError("a node's parent is beyond its nodes")
    if (parents[left[inner]] != own).any() or (parents[right[inner]] != own).any():
        raise _DamageError("a node's parent is another one")


def _check_categories(tree: Any, nodes: int) -> None:
    """A split by categories has a segment of their list."""
    kinds = _integers(tree.get("split_type", ()))
    if len(kinds) not in (0, nodes) or not np.isin(kinds, (0, 1)).all():
        raise _DamageError("the types of its splits are damaged")
    if not kinds.any():
        return
    listed, at = _integers(tree["categories"]), _integers(tree["categories_nodes"])
    starts, sizes = _integers(tree["categories_segments"]), _integers(tree["categories_sizes"])
    if not len(at) == len(starts) == len(sizes) or (np.diff(at) <= 0).any():
        raise _DamageError("its categories do not belong to its splits")
    if not np.isin(np.flatnonzero(kinds), at).all() or (at < 0).any() or (at >= nodes).any():
        raise _DamageError("a split by categories has none")
    if (starts < 0).any() or (sizes < 1).any() or (starts + sizes > len(listed)).any() or (listed < 0).any():
        raise _DamageError("its categories are cut wrongly")
