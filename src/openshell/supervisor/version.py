"""The version of this program, looked up once; in the zygote, for all its forks."""

import functools
import importlib.metadata

__all__ = ["version"]


@functools.cache
def version() -> str:
    """The installed distribution's version; "0" when run from a bare tree."""
    try:
        return importlib.metadata.version("openshell-py")
    except importlib.metadata.PackageNotFoundError:
        return "0"
