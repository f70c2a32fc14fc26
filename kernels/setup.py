"""Build the shared library. It has no word of Python in it, so one build serves every version."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "tidemill_kernels._kernels",
            ["src/tables.c", "src/walks.c", "src/delimited.c"],
            depends=["src/export.h", "src/numerals.h"],
            libraries=["m"],
            extra_compile_args=["-std=gnu11", "-O3", "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
