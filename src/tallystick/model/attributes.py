"""Names on a span: sender and receiver must agree without knowing each other.

Our own constants, because every ``gen_ai.*`` constant in opentelemetry-semantic-conventions 0.66b2 is marked moved.
Source: OpenTelemetry GenAI semantic conventions (client-inference, 2026); the reference page is docs/spans.md.
"""

from __future__ import annotations

SCOPE = "tallystick"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
"""Seconds from the call's start to the first byte of content."""
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
COST_AMOUNT = "gen_ai.usage.cost.amount"
COST_CURRENCY = "gen_ai.usage.cost.currency"
PROMPT_NAME = "gen_ai.prompt.name"

SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
USER = "user.id"
SESSION = "session.id"
SERVICE = "service.name"
ENVIRONMENT = "deployment.environment.name"

UNITS = "tallystick.units"
"""JSON list: the call's billable responses with their raw usage; see docs/spans.md."""
OUTCOME = "tallystick.outcome"
ATTEMPTS = "tallystick.attempts"
ERROR_CODE = "tallystick.error.code"
FEATURE = "tallystick.feature"
CALLER = "tallystick.caller"
KEY = "tallystick.key"
"""Fingerprint of the API key: a salted hash and the last four characters."""
TAG_PREFIX = "tallystick.tag."
COST_STATUS = "tallystick.cost.status"
RESERVATION = "tallystick.reservation.id"
"""What the call held in the budgets that cover it; absent when none does."""
CHUNKS = "tallystick.stream.chunks"
SERVICE_TIER = "tallystick.service_tier"
SPEED = "tallystick.speed"
INFERENCE_GEO = "tallystick.inference_geo"
WEB_SEARCH_REQUESTS = "tallystick.web_search_requests"
STREAM_GAP_S = "tallystick.stream.longest_gap_s"
STREAM_RATE = "tallystick.stream.tokens_per_second"

# What a request looks like, without a word of it: salted hashes and sizes.
REQUEST_DIGEST = "tallystick.request_digest"
PREFIX_DIGESTS = "tallystick.prefix_digests"
"""JSON list of [digest, characters so far] of the request's beginnings, the shortest first."""
TEMPLATE = "tallystick.template"
REQUEST_CHARACTERS = "tallystick.request.characters"
REQUEST_TOOLS_CHARACTERS = "tallystick.request.tools_characters"
REQUEST_MESSAGES = "tallystick.request.messages"

# What budgets had to do with the call.
UNGUARDED = "tallystick.budget.unguarded"
"""The budget that let the call pass although the collector could not be asked."""
ASKED_MODEL = "tallystick.budget.asked_model"
"""What the app asked for, when a budget had a lesser model asked; ``gen_ai.request.model`` is that one."""
ASKED_MAX_TOKENS = "tallystick.budget.asked_max_tokens"
"""What the app allowed, 0 for no cap, when a budget had the answer cut shorter."""

# Calls of one piece of work: a retry, a fallback, a re-ask.
LINK_ID = "tallystick.link.id"
"""The id of the chain's first call."""
LINK_KIND = "tallystick.link.kind"
LINK_INDEX = "tallystick.link.index"

# What only the app knows, each a span of its own.
MARKER = "tallystick.marker"
MARKER_CALL = "tallystick.marker.call"
"""The id of the call that a marker speaks of."""
MARKER_REASON = "tallystick.marker.reason"
MARKER_TO = "tallystick.marker.to"
MARKER_MODEL = "tallystick.marker.model"
MARKER_NOTICED = "tallystick.marker.noticed"
"""True on a marker that the app did not set: we saw the error that its parser or validator raised."""
MARKER_SAVED_USD = "tallystick.marker.saved_usd"

# Content, only where the app opted in.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"

# On the child span of each HTTP attempt.
ATTEMPT = "tallystick.attempt"
"""True on the span of an attempt."""
HTTP_METHOD = "http.request.method"
RESEND_COUNT = "http.request.resend_count"
STATUS_CODE = "http.response.status_code"
REQUEST_ID = "tallystick.attempt.request_id"
RETRY_AFTER_S = "tallystick.attempt.retry_after_s"
ATTEMPT_OUTCOME = "tallystick.attempt.outcome"
ATTEMPT_CODE = "tallystick.attempt.code"
WAITED_S = "tallystick.attempt.waited_s"
SHOULD_RETRY = "tallystick.attempt.should_retry"
RATE_LIMIT_PREFIX = "tallystick.ratelimit."
"""Below it ``{requests,tokens,input_tokens,output_tokens}.{limit,remaining,reset_s}``."""

# What an app says of its own books; see `FINISHED_CALLS` in docs/spans.md.
FINISHED_CALLS = "tallystick.finished.calls"
"""How many calls of the process have finished since this was told last; 1 where a call's span says nothing."""
DROPPED_RECORDS = "tallystick.dropped.records"
DROPPED_CALLS = "tallystick.dropped.calls"
"""How many of the records that were dropped were calls."""

TAGS = {"feature": FEATURE, "user": USER, "session": SESSION, "prompt": PROMPT_NAME}
"""What `tallystick.tags` has words for; every other tag goes below ``tallystick.tag.``."""
