"""Children import scikit-learn without SciPy's statistics; whoever uses those gets them as ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import sys
from tidemill.flavors.scipy_stats import defer_stats
defer_stats()
executed = lambda: "scipy.stats._stats_py" in sys.modules
import scipy.stats
import scipy.stats as again
"""

USES = {
    "an attribute": "assert scipy.stats.norm.cdf(0.0) == 0.5",
    "a name": "from scipy.stats import norm; assert norm.cdf(0.0) == 0.5",
    "a name that is stood in for": """
from scipy.stats import gmean, rankdata, chi2
assert not executed()
assert gmean([1.0, 4.0]) == 2.0 and rankdata([3, 1, 2]).tolist() == [3, 1, 2]
assert abs(chi2.isf(0.5, 1) - 0.45493642311957283) < 1e-12
from scipy.stats import gmean as real
assert type(real).__name__ == "function" and real is scipy.stats.gmean
""",
    "everything": "from scipy.stats import *; assert norm.cdf(0.0) == 0.5",
    "a part that it imports itself": """
import scipy.stats._distn_infrastructure as part
assert part is sys.modules[part.__name__] is scipy.stats._distn_infrastructure
assert isinstance(scipy.stats.norm, part.rv_continuous)
assert part.__spec__.name == part.__name__ and part.__spec__.loader is part.__loader__
""",
    "a part that it does not import itself": """
import scipy.stats._result_classes
assert scipy.stats._result_classes.__spec__.origin.endswith("_result_classes.py")
""",
    "a pickle": """
import pickle
from subprocess import check_output
made = "import pickle, sys, scipy.stats as s; sys.stdout.buffer.write(pickle.dumps([s.norm(1), s.gmean]))"
frozen, mean = pickle.loads(check_output([sys.executable, "-c", made]))
assert frozen.mean() == 1.0 and mean([1.0, 4.0]) == 2.0
""",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda n: (scipy.stats.norm.cdf(0.0), scipy.stats.gmean([1.0, 4.0])), range(32)))
assert found == [(0.5, 2.0)] * 32
""",
    "a fork": """
import os
child = os.fork()
if child == 0:
    os._exit(0 if scipy.stats.norm.cdf(0.0) == 0.5 else 1)
assert os.waitpid(child, 0)[1] == 0 and not executed()
scipy.stats.norm
""",
}

SKLEARN = """
import sys
import tidemill.flavors.sklearn_library
import sklearn.linear_model, sklearn.ensemble, sklearn.impute, sklearn.calibration, sklearn.feature_extraction.text
print("pandas" in sys.modules, "scipy.stats._stats_py" in sys.modules, "scipy.stats" in sys.modules)
import numpy as np
from sklearn.preprocessing import QuantileTransformer
made = QuantileTransformer(n_quantiles=5, output_distribution="normal").fit_transform(np.arange(5.0)[:, None])
print(made[2, 0], "scipy.stats._stats_py" in sys.modules)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("use", USES)
def test_the_first_use_executes_it(use: str) -> None:
    run(f"{BEGIN}\nassert not executed()\n{USES[use]}\nassert executed()\nassert again is scipy.stats")


def test_what_is_imported_already_stays() -> None:
    run("import scipy.stats\nreal = scipy.stats.gmean\n" + BEGIN + "\nassert executed() and scipy.stats.gmean is real")


def test_scikit_learn_does_without_it_and_without_pandas_until_a_model_needs_it() -> None:
    assert run(SKLEARN).splitlines() == ["False False True", "0.0 True"]
