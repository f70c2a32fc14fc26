"""The documentation is held to the code."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest

from tidemill.config import Settings
from tidemill.domain import errors, job

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

WORDS = """
    model, model version, alias, flavor, signature, source, sink, snapshot, job, plan, chunk, batch, part, receipt,
    rejected row, row key, epoch, executor, worker, scorer, staging, schedule, limit
"""

PAGES = runpy.run_path(str(ROOT / "tools" / "reference.py"), run_name="reference")["PAGES"]


def entries() -> list[str]:
    """The words that the glossary explains: a bold line, then a line that begins with a colon."""
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    return re.findall(r"^\*\*([^*]+)\*\*[^\n]*\n: \S", text, re.MULTILINE)


def markdown() -> list[Path]:
    return sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("name", PAGES)
def test_reference_page_is_what_the_code_says(name: str) -> None:
    page = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert page == PAGES[name](), "run `make reference`"


def test_every_error_stands_in_the_reference() -> None:
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    assert rows == {code: kind.__name__ for code, kind in errors.BY_CODE.items()}


def test_every_transition_is_drawn() -> None:
    page = (DOCS / "reference" / "states.md").read_text(encoding="utf-8")
    drawn = {(before, after) for before, after in re.findall(r"^    (\w+) --> (\w+)$", page, re.MULTILINE)}
    assert drawn == {(before, after) for before in job.JobState for after in job.TRANSITIONS[before]}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_stands_in_the_reference_with_its_meaning(name: str) -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    meaning = Settings.model_fields[name].description
    assert meaning
    assert re.search(
        rf"^\| `{name}` \| `TIDEMILL_{name.upper()}` \| .* \| {re.escape(meaning)} \|$", page, re.MULTILINE
    )


def test_tables_of_the_reference_are_whole() -> None:
    """A bar within a cell ends it."""
    for page in (DOCS / "reference").glob("*.md"):
        for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
            rows = table.splitlines()
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {rows[0].count("|")}, (page.name, table)


@pytest.mark.parametrize("word", [" ".join(word.split()) for word in WORDS.split(",")])
def test_glossary_explains_the_words_of_the_product(word: str) -> None:
    assert word in entries()


def test_glossary_explains_every_port() -> None:
    ports = {path.stem for path in (ROOT / "src" / "tidemill" / "ports").glob("*.py")} - {"__init__"}
    assert ports - set(entries()) == set()


def test_glossary_has_one_meaning_for_each_word() -> None:
    assert len(entries()) == len(set(entries()))


def test_layers_are_drawn_as_they_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    page = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8")
    (drawn,) = re.findall(r"^```layers\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert drawn.splitlines() == layers


def test_readme_shows_what_a_benchmark_saw() -> None:
    newest = max((ROOT / "benchmarks" / "results").glob("*-resume.json"))
    runs = json.loads(newest.read_text(encoding="utf-8"))["runs"]["killed and resumed"]
    shown = re.search(
        r"^\$ timeout .*?(?=^```)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert shown
    assert any(run["transcript"].startswith(shown[0].rstrip()) for run in runs), f"copy a transcript of {newest.name}"


def test_architecture_says_what_every_package_holds() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8")
    table = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    package = ROOT / "src" / "tidemill"
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - table - {"__init__", "__main__"} == set()


@pytest.mark.parametrize("path", markdown(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (path.parent / target).exists()] == []


def test_index_leads_to_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)\s#]+\.md)\)", index)}
    assert {path for path in DOCS.rglob("*.md") if path.name != "index.md"} - linked == set()


@pytest.mark.parametrize("path", sorted((DOCS / "adr").glob("*.md")), ids=lambda path: path.stem)
def test_decision_is_one_page_with_four_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    number, _, _ = path.name.partition("-")
    assert text.startswith(f"# {number}: ")
    assert re.search(r"^Status: \w", text, re.MULTILINE)
    assert re.findall(r"^## (\w+)", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.split()) <= 500


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((DOCS / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
