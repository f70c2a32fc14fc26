"""Every program that a test calls is there on a fresh machine: `make test` installs it, or every Debian has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "node": "nodejs",
    "strace": "strace",
    "umount": "mount",
}
EVERYWHERE = {"cp", "diff", "ls", "make", "setpriv", "sh", "sleep"}
"""Of coreutils, dash, diffutils and util-linux, without which there is no Debian; and what runs the tests."""
OURS = {"python", "tidemill"}
STARTERS = {"run", "Popen", "check_call", "check_output"}


def programs() -> set[str]:
    """The first words of commands in tests and examples, where they are written out."""
    paths = [path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("*.py")]
    return {word for path in paths for word in first_words(ast.parse(path.read_text(encoding="utf-8")))}


def first_words(tree: ast.AST) -> Iterator[str]:
    ours = {id(word) for node in ast.walk(tree) if _is_our_command(node) for word in node.args}
    for node in ast.walk(tree):
        match node:
            case _ if id(node) in ours:
                pass
            case ast.Call(func=func, args=[ast.List(elts=[first, *_]), *_]) if _name(func) in STARTERS:
                yield from _word(first)
            case ast.Call(func=func, args=[first]) if _name(func) == "which":
                yield from _word(first)
            case ast.Call(func=ast.Name(id="_do"), args=[first, *_]):
                yield from _word(first)
            case ast.List(elts=[first, second, *_]) if _is_option(second):
                yield from _word(first)


def _is_our_command(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it calls `tidemill` in this process, so that the words begin with a command of ours."""
    return isinstance(node, ast.Call) and _name(node.func) == "invoke"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_option(node: ast.expr) -> bool:
    text = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    return isinstance(text, ast.Constant) and re.match("--?[a-z]", str(text.value)) is not None


def _word(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z][a-z0-9.]+", str(node.value)):
        yield str(node.value)


def test_each_is_installed_or_everywhere() -> None:
    found = programs()
    assert set(PACKAGES) <= found, "nobody calls it any more"
    assert found <= {*PACKAGES, *EVERYWHERE, *OURS}


@pytest.mark.parametrize("target", ["test", "test-long"])
def test_make_installs_them(target: str) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search("^PROGRAMS := (.*)$", text, re.MULTILINE)
    assert listed is not None and set(listed[1].split()) == set(PACKAGES.values())
    recipe = re.search(rf"^{target}: setup.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert recipe is not None and "tools/need_packages.sh $(PROGRAMS)" in recipe[1]
