"""Asks OpenAI for the usage of a chat stream, and keeps the extra chunk from the app.

A chat stream says no usage unless ``stream_options.include_usage`` is set, and apps index ``chunk.choices[0]`` of
every chunk, which the extra one does not have.  So it is asked for only where OpenAI itself answers (or a gateway that
the user mapped to it), and its chunk is taken out of what the app iterates.  A host that refuses the option is asked
again without it, at once, and never with it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._routes import Route
from tallystick.instrumentation._units import Place

APIS = frozenset({"chat", "completions"})
HIDE = "tallystick.hide_usage"
"""On a response's ``extensions``: its usage chunk is not the app's."""
RAW_HEADER = "x-stainless-raw-response"

_refused: set[str] = set()


def wants_usage(options: Any, route: Route, place: Place) -> bool:
    """Tell whether the usage of this request's stream must be asked for by us."""
    request = options.json_data
    if route.api not in APIS or place.provider != "openai" or place.address in _refused:
        return False
    if not isinstance(request, Mapping) or request.get("stream") is not True or request.get("stream_options"):
        return False
    # Whoever reads the raw lines would see the extra one.
    headers = options.headers if isinstance(options.headers, Mapping) else {}
    return not any(name.lower() == RAW_HEADER and value == "stream" for name, value in headers.items())


def asking(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of ``APIClient.request`` with the option set; the app's own objects stay as they are."""
    if "options" in kwargs:
        return args, {**kwargs, "options": _with_usage(kwargs["options"])}
    return (args[0], _with_usage(args[1]), *args[2:]), dict(kwargs)


def _with_usage(options: Any) -> Any:
    asked = {**options.json_data, "stream_options": {"include_usage": True}}
    copy = options.model_copy if hasattr(options, "model_copy") else options.copy  # pydantic 1
    return copy(update={"json_data": asked})


def is_refusal(error: BaseException, place: Place) -> bool:
    """Tell whether ``error`` says that the host knows no ``stream_options``, and remember the host if so."""
    refused = getattr(error, "status_code", None) in {400, 422} and "stream_options" in str(error)
    if refused:
        _refused.add(place.address)
    return refused


def without_usage(chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield ``chunks`` but for the one that only says usage."""
    looking = guard("the hiding of a usage chunk")
    try:
        for chunk in chunks:
            with looking:
                if _is_usage(chunk):
                    continue
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


async def without_usage_async(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield ``chunks`` but for the one that only says usage."""
    looking = guard("the hiding of a usage chunk")
    try:
        async for chunk in chunks:
            with looking:
                if _is_usage(chunk):
                    continue
            yield chunk
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _is_usage(chunk: Any) -> bool:
    return getattr(chunk, "choices", None) == [] and getattr(chunk, "usage", None) is not None
