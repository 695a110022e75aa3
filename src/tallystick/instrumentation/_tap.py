"""Listens to a response's body as the app reads it, and tells how it ended, exactly once."""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import Any

from tallystick.instrumentation._attempts import outcome_of_transport
from tallystick.instrumentation._guard import guard, guarded
from tallystick.instrumentation._wire import StreamReader
from tallystick.model.failures import Outcome

# What is still being read when the process ends; weak, so that a dropped stream is noticed by its own end.
open_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    """Follows one body; calls ``done`` once, whatever ends it: its marker, its last byte, close, or an error."""

    def __init__(
        self, reader: StreamReader, encoding: str, on_content: Callable[[], None], done: Callable[[Recorder], None]
    ) -> None:
        self.reader = reader
        self.outcome = Outcome.OK
        self.exception: str | None = None
        self.ends_settled = False
        """True when whoever reads may leave, unclosed, what comes after the last word (litellm 1.106 does)."""
        self.asked_s: float | None = None
        """When the app asked for more, of the performance counter; None before the first bytes."""
        self.longest_gap_s = 0.0
        """The longest that the app had to wait for more, the first bytes not counted."""
        self._on_content: Callable[[], None] | None = on_content
        self._done = done
        self._over = False
        self._decode = None if encoding in {"", "identity"} else _decoder(encoding)
        self._is_readable = self._decode is not None or encoding in {"", "identity"}
        open_recorders.add(self)

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they came over the wire."""
        if self._over:
            return
        if self.asked_s is not None and (gap_s := time.perf_counter() - self.asked_s) > self.longest_gap_s:
            self.longest_gap_s = gap_s
        reader = self.reader
        if self._decode is not None:
            chunk = self._decode(chunk)
        if self._is_readable:
            reader.feed(chunk)
            if reader.passing:  # as most chunks do: nothing can have come of it
                return
        else:
            reader.first_content = reader.answer.is_unreadable = True
        if reader.first_content and self._on_content is not None:
            self._on_content()
            self._on_content = None
        # Some SDK versions never close a stream after its last event or an error event.
        if reader.complete or reader.failed or (self.ends_settled and reader.is_settled):
            self.over()

    def _measure(self) -> None:
        if self.asked_s is not None and (gap_s := time.perf_counter() - self.asked_s) > self.longest_gap_s:
            self.longest_gap_s = gap_s

    def over(self, error: BaseException | None = None, *, exhausted: bool = False) -> None:
        """The body has ended; the first word counts."""
        if self._over:
            return
        self._over = True
        open_recorders.discard(self)
        if error is not None:
            self._measure()
        if exhausted and not self.reader.complete and self._is_readable:
            self.reader.end()
        self.reader.settle()
        self.outcome = self._outcome(error, exhausted)
        if error is not None and self.outcome is not Outcome.ABANDONED:
            self.exception = type(error).__qualname__
        self._done(self)

    def _outcome(self, error: BaseException | None, exhausted: bool) -> Outcome:
        reader = self.reader
        if reader.failed or reader.complete:
            return reader.answer.outcome
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            return Outcome.CANCELLED
        if isinstance(error, Exception):
            transport = outcome_of_transport(type(error).__name__)
            return Outcome.STREAM_INTERRUPTED if transport is Outcome.CONNECTION else transport
        # The last word was said, or cannot be known: who leaves then (a middleware at a refusal) misses nothing.
        if reader.answer.is_unreadable or (reader.is_settled and not exhausted):
            return reader.answer.outcome
        # A body that is over without its terminal marker was cut by somebody on the way.
        return Outcome.STREAM_INTERRUPTED if exhausted else Outcome.ABANDONED


def _decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Return what undoes a content encoding, None for one that we cannot undo."""
    if encoding in {"gzip", "deflate"}:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
    # What the HTTP library has advertised, it has imported; what it has not imported was not asked for.
    if encoding == "br" and (brotli := sys.modules.get("brotli") or sys.modules.get("brotlicffi")):
        decompressor = brotli.Decompressor()
        process: Callable[[bytes], bytes] = getattr(decompressor, "process", None) or decompressor.decompress
        return process
    if encoding == "zstd":
        return _zstd_decoder()
    return None


def _zstd_decoder() -> Callable[[bytes], bytes] | None:
    decompress: Callable[[bytes], bytes] | None = None
    if module := sys.modules.get("compression.zstd") or sys.modules.get("backports.zstd"):
        decompress = module.ZstdDecompressor().decompress
    elif module := sys.modules.get("zstandard"):  # httpx until 0.28
        decompress = module.ZstdDecompressor().decompressobj().decompress
    return decompress


Inside = tuple[Callable[[], Any], Callable[[Any], None]]
"""What enters a call's context, and what leaves it by the token that the former gave."""


def tap(response: Any, recorder: Recorder, *, asynchronous: bool, inside: Inside | None = None) -> None:
    """Make ``recorder`` hear the body of ``response``, an unread httpx or httpx2 response.

    ``inside``: a context in which each step of reading runs, for bodies that send requests while they are read.
    """
    library = type(response).__module__.partition(".")[0]
    kind = _async_tap(library) if asynchronous else _sync_tap(library)
    stream = response.stream
    if inside is not None:
        stream = _AsyncWithin(stream, *inside) if asynchronous else _Within(stream, *inside)
    response.stream = kind(stream, recorder)


def is_tapped(response: Any) -> bool:
    """Tell whether somebody of ours listens to the body of ``response`` already."""
    return getattr(type(response.stream), "is_ours", False) is True


class _Within:
    """A body whose every step runs in a call's context; it is a generator's, so each step is the caller's."""

    def __init__(self, stream: Any, enter: Callable[[], Any], leave: Callable[[Any], None]) -> None:
        self._stream = stream
        self._enter = enter
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        while True:
            token = self._enter()
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            finally:
                self._leave(token)
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _AsyncWithin(_Within):
    """As `_Within`."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        while True:
            token = self._enter()
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            finally:
                self._leave(token)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


# The stream must be of the very library that made the response: httpx and httpx2 both check it.
@cache
def _sync_tap(library: str) -> type:
    class Tap(sys.modules[library].SyncByteStream):  # type: ignore[misc]
        is_ours = True

        def __init__(self, stream: Any, recorder: Recorder) -> None:
            self._stream = stream
            self._recorder = recorder

        def __iter__(self) -> Iterator[bytes]:
            recorder = self._recorder
            hear = guarded("the reading of a stream", recorder.feed)
            try:
                for chunk in self._stream:
                    hear(chunk)
                    yield chunk
                    recorder.asked_s = time.perf_counter()
            except BaseException as error:
                with guard("the end of a stream"):
                    recorder.over(None if isinstance(error, GeneratorExit) else error)
                raise
            with guard("the end of a stream"):
                recorder.over(exhausted=True)

        def close(self) -> None:
            try:
                self._stream.close()
            finally:
                with guard("the end of a stream"):
                    self._recorder.over()

        def __del__(self) -> None:
            with guard("the end of a stream"):
                self._recorder.over()

    return Tap


@cache
def _async_tap(library: str) -> type:
    class AsyncTap(sys.modules[library].AsyncByteStream):  # type: ignore[misc]
        is_ours = True

        def __init__(self, stream: Any, recorder: Recorder) -> None:
            self._stream = stream
            self._recorder = recorder

        async def __aiter__(self) -> AsyncIterator[bytes]:
            recorder = self._recorder
            hear = guarded("the reading of a stream", recorder.feed)
            try:
                async for chunk in self._stream:
                    hear(chunk)
                    yield chunk
                    recorder.asked_s = time.perf_counter()
            except BaseException as error:
                with guard("the end of a stream"):
                    recorder.over(None if isinstance(error, GeneratorExit) else error)
                raise
            with guard("the end of a stream"):
                recorder.over(exhausted=True)

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                with guard("the end of a stream"):
                    self._recorder.over()

        def __del__(self) -> None:
            with guard("the end of a stream"):
                self._recorder.over()

    return AsyncTap


def end_open_streams() -> None:
    """Tell every body that is still being read that it is over: the process ends."""
    for recorder in list(open_recorders):
        with guard("the end of a stream"):
            recorder.over()
