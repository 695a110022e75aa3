"""A book's providers, folded: text until somebody asks for one, because an app asks for one or two of fifty."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

PROVIDERS = b'"providers": {\n'
ENDS = (b"]},\n", b"]}\n")
"""The lines of a shipped book before the first provider, and behind the models of one."""


class Folded(Mapping[str, Any]):
    """Providers by name, each of them decoded anew when asked for.

    What is kept is the models' lines, deflated: 70 kB, where all of them decoded are 3 MB.
    """

    def __init__(self, sections: Iterable[tuple[str, str, bytes]]) -> None:
        self._sections = {name: (source, zlib.compress(lines, 1)) for name, source, lines in sections}

    def source(self, name: str) -> str:
        """Return where the prices of ``name`` are from."""
        return self._sections[name][0]

    def models(self, name: str) -> list[bytes]:
        """Return the text of each model of ``name``."""
        return [line.rstrip(b",") for line in zlib.decompress(self._sections[name][1]).splitlines()]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return {"source": self.source(name), "models": [json.loads(text) for text in self.models(name)]}

    def __contains__(self, name: object) -> bool:
        return name in self._sections

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)


def fold(providers: Mapping[str, Any]) -> Folded:
    """Return ``providers``, plain values, folded."""
    return Folded(
        (name, raw.get("source", ""), "\n".join(map(json.dumps, raw["models"])).encode())
        for name, raw in providers.items()
    )


def read_folded(lines: Iterator[bytes]) -> dict[str, Any]:
    """Return the book of ``lines``, as `compile.encode` lays them out, without decoding its providers."""
    head = b"".join(takewhile(lambda line: line != PROVIDERS, lines))
    return {**json.loads(head.rstrip(b",\n") + b"}"), "providers": Folded(_sections(lines))}


def _sections(lines: Iterator[bytes]) -> Iterator[tuple[str, str, bytes]]:
    for first in takewhile(lambda line: line != b"}}\n", lines):
        [(name, raw)] = json.loads(b"{" + first + b"]}}").items()
        yield name, raw["source"], b"".join(takewhile(lambda line: line not in ENDS, lines)).strip()
