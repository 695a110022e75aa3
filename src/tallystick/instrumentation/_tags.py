"""What the app says of a call: feature, user, session, prompt, and anything else by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

from tallystick.model.attributes import TAG_PREFIX, TAGS

VALUE_CHARACTERS_MAX = 256

_current: ContextVar[dict[str, str]] = ContextVar("tallystick.tags", default={})  # noqa: B039 -- never mutated

on_error: Callable[[BaseException, float], None] | None = None
"""Told of the error that leaves a block of tags, and since when (monotonic, seconds) the block was open."""


class tags(ContextDecorator):  # noqa: N801 -- it reads as a statement: with tags(feature="chat"):
    """Tag the calls made inside: ``with tags(feature="chat", user=user_id):`` or ``@tags(feature="chat")``.

    Nests (the inner value wins) and follows contextvars into tasks and, where the caller copies its context, threads.
    ``feature``, ``user``, ``session`` and ``prompt`` have columns of their own; every other name is a tag.  Values are
    text of at most 256 characters; None leaves a tag as it is.  On an ``async def``, use it as ``with`` inside.
    """

    def __init__(
        self,
        *,
        feature: object = None,
        user: object = None,
        session: object = None,
        prompt: object = None,
        **others: object,
    ) -> None:
        named = {"feature": feature, "user": user, "session": session, "prompt": prompt}
        self._added = {
            TAGS.get(name, f"{TAG_PREFIX}{name}"): str(value)[:VALUE_CHARACTERS_MAX]
            for name, value in {**named, **others}.items()
            if value is not None
        }
        self._tokens: list[tuple[Token[dict[str, str]], float]] = []

    def __enter__(self) -> Self:
        self._tokens.append((_current.set({**_current.get(), **self._added}), time.monotonic()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, since_s = self._tokens.pop()
        if error is not None and on_error is not None:
            on_error(error, since_s)
        _current.reset(token)

    def _recreate_cm(self) -> tags:
        """Give each call of a decorated function a tags of its own, so that threads do not share tokens."""
        copy = tags()
        copy._added = self._added
        return copy


def current_tags() -> dict[str, str]:
    """Return the attributes that the tags in force put on a call; not to be changed."""
    return _current.get()
