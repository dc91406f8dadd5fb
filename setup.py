"""Builds the renderer `fast`; everything else about the package is in pyproject.toml.

The library is plain C to Python (ctypes calls it): building it takes a C++ compiler, but neither
Python's headers nor a binding library. It is optional: without a compiler the install succeeds,
`egl` and `tiny` draw, and `fast` says what is missing.
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = "sim/drawing"

setup(
    ext_modules=[
        Extension(
            "calvin_eval.sim.drawing._raster",
            sources=[f"{SOURCES}/_raster.cpp"],
            depends=sorted(str(path) for path in Path(SOURCES).glob("_raster*.hpp")),
            language="c++",
            # Nothing here may relax floating-point results: the images are those of every
            # machine. And -ffast-math would reach beyond this library: linked with it, the whole
            # process rounds denormal numbers to zero, the physics too.
            extra_compile_args=[
                *("-std=c++17", "-O3", "-g0"),
                *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"),
            ],
            optional=True,
        )
    ]
)
