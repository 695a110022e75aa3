"""What a provider counted, in one convention for all of them."""

from __future__ import annotations

from typing import NamedTuple


class Usage(NamedTuple):
    """Counts of one billable response, as the provider reported them, in the inclusive convention.

    ``input_tokens`` is everything that was read, cache reads and cache writes included; ``output_tokens`` is everything
    that was written, reasoning included.  The other token fields are parts of these two and are never added to them.
    Anthropic's wire figures exclude the cache from ``input_tokens``; the wire readers add it.
    Source of the convention: OpenTelemetry GenAI semantic conventions, ``gen_ai.usage.*``.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_30m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_write_12h_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    web_search_requests: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts that are not zero, by name."""
        return {name: count for name, count in zip(self._fields, self, strict=True) if count}
