"""What the digest of a model given as code depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.engine.models import digest_of, identify

CODE = "class Model:\n    def predict(self, batch):\n        return batch.column(0)\n"


def install(site: Path, *, module: str, version: str, top_level: bool) -> None:
    """A distribution as pip leaves it: with the names of its modules, or only its list of files."""
    (site / module).mkdir(exist_ok=True)
    (site / module / "__init__.py").write_text(CODE)
    info = site / f"shop_{module}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shop-{module}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}x/__init__.py,,\n{module}/__init__.py,,\n{info.name}/METADATA,,\n")
    if top_level:
        (info / "top_level.txt").write_text(f"{module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("top_level", [True, False])
def test_another_version_of_its_distribution_is_another_model(site: Path, top_level: bool) -> None:
    module = f"ranker{int(top_level)}"
    install(site, module=module, version="1.0", top_level=top_level)
    first = digest_of(f"{module}:Model")
    assert digest_of(f"{module}:Model") == first
    install(site, module=module, version="1.1", top_level=top_level)
    assert digest_of(f"{module}:Model")[0] != first[0]


def test_a_version_of_something_else_does_not_matter(site: Path) -> None:
    install(site, module="sorter", version="1.0", top_level=False)
    first = digest_of("sorter:Model")
    install(site, module="sort", version="2.0", top_level=False)
    install(site, module="other", version="3.0", top_level=True)
    assert digest_of("sorter:Model") == first


def test_a_file_of_ones_own_has_no_version(site: Path) -> None:
    install(site, module="alone", version="1.0", top_level=True)
    file = site.parent / "alone.py"
    file.write_text(CODE)
    first = digest_of("alone.py:Model")
    install(site, module="alone", version="1.1", top_level=True)
    assert digest_of("alone.py:Model") == first


@pytest.mark.parametrize(("line", "wanted"), [("", []), ("import pandas as pd\n", ["pandas"])])
def test_a_class_that_speaks_of_pandas_is_forked_from_where_it_is_loaded(
    tmp_path: Path, line: str, wanted: list[str]
) -> None:
    (tmp_path / "ranker.py").write_text(line + CODE)
    assert identify(f"{tmp_path / 'ranker.py'}:Model")["preload"] == ["tidemill.flavors.python", *wanted]
