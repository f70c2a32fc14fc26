"""Build the shared library. It has no word of Python in it, so one build serves every version."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "tidemill_kernels._kernels",
            ["src/tables.c", "src/walks.c", "src/delimited.c", "src/linear.c"],
            depends=["src/export.h", "src/numerals.h"],
            libraries=["m"],
            # Sums are those of numpy to the bit: no product is added before it is rounded.
            extra_compile_args=["-std=gnu11", "-O3", "-fvisibility=hidden", "-ffp-contract=off"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
