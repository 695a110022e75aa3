"""The wrapper around a function of an SDK; to the app it is that function: called, looked at, copied and pickled."""

from __future__ import annotations

import pkgutil
from typing import Any, Self

import wrapt


class _Copied:
    """Copied as functions and methods are: the same one; pickled as they are: by the place where they are found."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return self.__reduce__()

    def __reduce__(self) -> tuple[Any, ...]:
        method: Any = self
        instance = getattr(method, "__self__", None)
        if instance is not None:
            return getattr, (instance, method.__name__)
        return pkgutil.resolve_name, (f"{method.__module__}:{method.__qualname__}",)


class _Bound(_Copied, wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    """What a class or an instance gives when it is asked for a patched method."""


class Wrapper(_Copied, wrapt.FunctionWrapper):  # type: ignore[type-arg]
    """A function of an SDK with one of our hooks around it."""

    __bound_function_wrapper__ = _Bound
