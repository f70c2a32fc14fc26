"""The report of sizes measures what it says, and never fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "sizes.py"


def sizes(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(folder)], capture_output=True, text=True)


def test_big_ones_are_named_with_their_size(tmp_path: Path) -> None:
    body = "".join(f"    a = {number}\n" for number in range(70))
    (tmp_path / "big.py").write_text(f'def long():\n    """One\n\n    two."""\n{body}\ndef short():\n    return 1\n')
    (tmp_path / "wide.py").write_text("class A:\n    def f(self, a, b, c, d, e, *, f, g, h, i): ...\n")
    done = sizes(tmp_path)
    assert done.returncode == 0
    assert f"   71  {tmp_path}/big.py:1 long" in done.stdout
    assert f"    9  {tmp_path}/wide.py:2 f" in done.stdout
    assert "short" not in done.stdout


def test_broken_files_and_empty_folders_do_not_fail(tmp_path: Path) -> None:
    assert sizes(tmp_path).stdout == "sizes: nothing to measure\n"
    (tmp_path / "broken.py").write_text("def (\n")
    done = sizes(tmp_path)
    assert (done.returncode, "does not parse" in done.stdout) == (0, True)
