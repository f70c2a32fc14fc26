"""Children import scikit-learn without parts of SciPy and NumPy; whoever uses those gets them as ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tidemill.flavors.deferred import TAKEN_BY_NAME

BEGIN = """
import sys
from tidemill.flavors.deferred import defer
defer()
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

OTHERS = {
    "scipy.optimize": """
import sklearn.utils.optimize
from scipy.optimize import minimize, linprog, linear_sum_assignment, minimize_scalar
assert not executed()
assert abs(minimize(lambda x: (x[0] - 2) ** 2, [0.0]).x[0] - 2) < 1e-4
assert linear_sum_assignment([[1, 0], [0, 1]])[1].tolist() == [1, 0]
assert minimize_scalar(lambda x: (x - 2) ** 2).success and linprog([1], bounds=(1, 2)).fun == 1.0
assert module._linesearch is sys.modules["scipy.optimize._linesearch"]
from scipy.optimize._linesearch import line_search_wolfe2
assert module._optimize.line_search_wolfe2 is line_search_wolfe2
""",
    "scipy.interpolate": """
from scipy.interpolate import BSpline
from scipy import interpolate
assert not executed()
assert float(interpolate.interp1d([0.0, 2.0], [0.0, 4.0])(1.0)) == 2.0
assert float(BSpline([0, 1, 2, 3], [1.0, 1.0], 1)(1.5)) == 1.0
assert isinstance(interpolate.make_interp_spline([0.0, 1.0], [0.0, 1.0], 1), interpolate.BSpline)
""",
    "scipy.integrate": """
from scipy.integrate import trapezoid
assert not executed()
assert trapezoid([1.0, 1.0]) == 1.0 and abs(module.quad(lambda x: x, 0, 1)[0] - 0.5) < 1e-12
""",
    "numpy.f2py": """
import numpy, numpy.f2py as again
from numpy import *
assert not executed() and numpy.f2py is again is module
import numpy.f2py.crackfortran as part
assert part is module.crackfortran and callable(module.run_main)
""",
    "numpy.testing": """
import numpy
from numpy import *
assert not executed() and numpy.testing is module
numpy.testing.assert_allclose([1.0], [1.0])
""",
}
"""By module: what it is used for when nothing of it has been executed."""

EXECUTED = {
    "scipy.optimize": "scipy.optimize._minimize",
    "scipy.interpolate": "scipy.interpolate._bsplines",
    "scipy.integrate": "scipy.integrate._quadrature",
    "numpy.f2py": "numpy.f2py.crackfortran",
    "numpy.testing": "numpy.testing._private.utils",
}

SKLEARN = """
import sys
import tidemill.flavors.sklearn_library
import sklearn.linear_model, sklearn.ensemble, sklearn.impute, sklearn.calibration, sklearn.feature_extraction.text
print("pandas" in sys.modules, "rich" in sys.modules, "scipy.stats" in sys.modules)
heavy = ("stats._stats_py", "optimize._minimize", "interpolate._bsplines", "integrate._quadrature", "fft")
print([name for name in heavy if f"scipy.{name}" in sys.modules])
print([name for name in ("f2py.crackfortran", "testing._private") if f"numpy.{name}" in sys.modules])
import numpy as np
from sklearn.preprocessing import QuantileTransformer
made = QuantileTransformer(n_quantiles=5, output_distribution="normal").fit_transform(np.arange(5.0)[:, None])
print(made[2, 0], "scipy.stats._stats_py" in sys.modules)
import pickle
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import SplineTransformer
x, y = np.arange(6.0), np.array([0, 0, 1, 0, 1, 1])
one, two, three = IsotonicRegression(), SplineTransformer(n_knots=3), LogisticRegression()
made = [one.fit(x, y), two.fit(x[:, None]), three.fit(x[:, None], y)]
sys.stdout.flush()
sys.stdout.buffer.write(pickle.dumps(made).hex().encode())
"""

UNPICKLED = """
import sys, pickle, numpy as np
{begin}
isotonic, spline, logistic = pickle.loads(bytes.fromhex("{made}"))
x = np.arange(6.0)
print(isotonic.predict(x).tolist(), spline.transform(x[:, None]).tolist(), logistic.predict_proba(x[:, None]).tolist())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("use", USES)
def test_the_first_use_executes_it(use: str) -> None:
    run(f"{BEGIN}\nassert not executed()\n{USES[use]}\nassert executed()\nassert again is scipy.stats")


@pytest.mark.parametrize("name", OTHERS)
def test_so_it_is_with_each_of_the_others(name: str) -> None:
    executed = f"executed = lambda: {EXECUTED[name]!r} in sys.modules"
    begin = f"{BEGIN}\n{executed}\nimport {name}\nmodule = sys.modules[{name!r}]\nassert not executed()"
    run(f"{begin}\n{OTHERS[name]}\nassert executed() and sys.modules[{name!r}] is module")


def test_each_that_is_deferred_is_tried_here() -> None:
    assert {"scipy.stats", *OTHERS} == set(TAKEN_BY_NAME)


def test_what_is_imported_already_stays() -> None:
    run("import scipy.stats\nreal = scipy.stats.gmean\n" + BEGIN + "\nassert executed() and scipy.stats.gmean is real")


def test_scikit_learn_does_without_it_and_without_pandas_until_a_model_needs_it() -> None:
    loaded, scipys, numpys, statistics, made = run(SKLEARN).splitlines()
    assert (loaded, scipys, numpys, statistics) == ("False False True", "[]", "[]", "0.0 True")
    deferred = UNPICKLED.format(begin="import tidemill.flavors.sklearn_library", made=made)
    assert run(deferred) == run(UNPICKLED.format(begin="", made=made)) != ""
