"""Sends an SDK's request with other values for some keys of its JSON; the app's own objects stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallystick.instrumentation._call import Call

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def rewritten(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], changes: Mapping[str, Any]) -> Arguments:
    """Return the arguments of ``APIClient.request`` with ``changes`` in the JSON that is sent."""
    if not changes:
        return args, kwargs
    call.changed(changes)
    if "options" in kwargs:
        return args, {**kwargs, "options": _changed(kwargs["options"], changes)}
    return (args[0], _changed(args[1], changes), *args[2:]), dict(kwargs)


def _changed(options: Any, changes: Mapping[str, Any]) -> Any:
    update: dict[str, Any] = {"json_data": {**(options.json_data or {}), **changes}}
    extra = getattr(options, "extra_json", None)
    if isinstance(extra, Mapping):  # it is laid over the rest when the request is built
        update["extra_json"] = {**extra, **{key: value for key, value in changes.items() if key in extra}}
    copy = options.model_copy if hasattr(options, "model_copy") else options.copy  # pydantic 1
    return copy(update=update)
