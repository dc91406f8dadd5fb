"""Builds the renderer `fast`; everything else about the package is in pyproject.toml.

The library is plain C to Python (ctypes calls it): building it takes a C++ compiler, but neither
Python's headers nor a binding library, and one wheel serves every Python. It is optional: without
a compiler the install succeeds, `egl` and `tiny` draw, and `fast` says what is missing.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = "sim/drawing"


class BuildLibrary(build_ext):
    """Compiles a shared library that is no module of Python's."""

    def get_ext_filename(self, fullname: str) -> str:
        """The path in the package, without the interpreter's name and version."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_libraries(self, ext: Extension) -> list[str]:
        """Nothing to link with; least of all Python's own library."""
        return list(ext.libraries)


class AnyPythonWheel(bdist_wheel):
    """A wheel of this system for every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3`, `none` and the system's tag."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel},
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
                *("-std=c++17", "-O3", "-g0", "-fvisibility=hidden"),
                *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"),
            ],
            optional=True,
        )
    ],
)
