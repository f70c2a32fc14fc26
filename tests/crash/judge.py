"""After a run of all tests: what the crash suite's kills hit. Fails if they prove too little.

python tests/crash/judge.py        run from the root of the repository, after pytest
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.rig import record

if __name__ == "__main__":
    wrong = record.report()
    scarce = record.scarce()
    for suite in scarce:
        print(f"crash suite: at least {record.FEWEST} kills must be recorded, there are of {suite}")
    sys.exit(bool(wrong or scarce))
