"""Members of third parties, which the tables of built-ins do not name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tidemill import registry
from tidemill.domain.errors import MissingExtra, UnknownFormat


def test_a_third_party_s_member_names_the_module_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("party")
    (folder / "party_of_three.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(folder)
    entry = EntryPoint(name="three", value="party_of_three:Three", group="tidemill.flavors")
    monkeypatch.setattr(registry, "installed", lambda group: (entry,) if group == entry.group else ())
    assert registry.flavors.names()[-1] == "three"
    with pytest.raises(MissingExtra, match="flavor 'three' needs the module 'a_module_that_nobody_has'") as caught:
        registry.flavors.get("three")
    assert "tidemill[" not in str(caught.value)


def test_members_are_found_among_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = tmp_path_factory.mktemp("site")
    for name, lines in (
        ("four", "[tidemill.sources]\nfour = four:Four\n[other]\nx = x:y\n"),
        ("five", "[a]\nb = c:d\n"),
    ):
        info = site / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(site)
    registry._all_installed.cache_clear()
    try:
        assert [(entry.name, entry.value) for entry in registry.installed("tidemill.sources")] == [
            ("four", "four:Four")
        ]
        assert registry.sources.names()[-1] == "four"
        assert "four" not in registry.flavors.names()
    finally:
        registry._all_installed.cache_clear()


def test_nobody_s_member_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UnknownFormat, match="No source is called 'papyrus'") as caught:
        registry.sources.get("papyrus")
    assert "parquet" in str(caught.value.remedy)


def test_extras_of_modules() -> None:
    assert registry.extra_of("sklearn.tree._tree") == "sklearn"
    assert registry.extra_of("lightgbm") == "lightgbm"
    assert registry.extra_of("nothing.at.all") is None


def test_endings_that_are_known_without_an_import_are_those_of_the_sources() -> None:
    for name in registry.sources.builtin:
        assert registry.suffixes_of(name) == registry.sources.get(name).suffixes
    assert set(registry._SUFFIXES) == set(registry.sources.builtin)
