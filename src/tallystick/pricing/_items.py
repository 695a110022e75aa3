"""What can be charged: every item's unit, for how many units its price is quoted, and how amounts are reckoned."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, DivisionByZero, InvalidOperation, Overflow

# Our own context: an app that set a short or trapping one for its thread must not change a cost.
EXACT = Context(prec=28, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])

TOKENS = ("token", 1_000_000)

UNITS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(
        (
            "input", "input_audio", "input_image", "input_video",
            "cache_read", "cache_read_audio", "cache_read_image", "cache_read_video",
            "cache_write", "cache_write_5m", "cache_write_30m", "cache_write_1h", "cache_write_12h",
            "output", "output_audio", "output_image", "output_video", "output_reasoning", "output_citation",
            "training",
        ),
        TOKENS,
    ),
    "characters": ("character", 1_000_000),
    "audio_seconds": ("second", 3600),
    "session_seconds": ("second", 3600),
    "video_seconds": ("second", 1),
    "video_seconds_1024p": ("second", 1),
    "document_pages": ("page", 1000),
    "annotated_pages": ("page", 1000),
    "text_messages": ("message", 1000),
    "web_search": ("request", 1000),
    "file_search": ("request", 1000),
    "rerank_search": ("request", 1000),
    "request": ("request", 1000),
}  # fmt: skip

# A class without a rate of its own is charged at the next one's: a provider that lists no price for cached audio
# charges audio.  What is not here (1 h and 12 h cache writes, reasoning and citations that were split off) has no
# stand-in, because those differ by factors.
STAND_IN: dict[str, tuple[str, ...]] = {
    "input_audio": ("input",),
    "input_image": ("input",),
    "input_video": ("input",),
    "cache_read": ("input",),
    "cache_read_audio": ("input_audio", "cache_read", "input"),
    "cache_read_image": ("input_image", "cache_read", "input"),
    "cache_read_video": ("input_video", "cache_read", "input"),
    "cache_write": ("input",),
    "cache_write_5m": ("cache_write", "input"),
    "cache_write_30m": ("cache_write", "input"),
    "output_audio": ("output",),
    "output_image": ("output",),
    "output_video": ("output",),
}
