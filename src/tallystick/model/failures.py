"""Why a call gave no usable answer: one small set of classes for all providers and SDK versions."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a call, or one attempt of it, ended.  ``ok`` is the only success."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    OVERLOADED = "overloaded"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_POOL = "timeout_pool"
    TIMEOUT_READ = "timeout_read"
    TIMEOUT_WRITE = "timeout_write"
    TIMEOUT_SERVER = "timeout_server"
    CONNECTION = "connection"
    AUTH = "auth"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    CONTEXT_LENGTH = "context_length"
    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    SERVER_ERROR = "server_error"
    STREAM_INTERRUPTED = "stream_interrupted"
    INVALID_OUTPUT = "invalid_output"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    INTERRUPTED = "interrupted"
    BUDGET_BLOCKED = "budget_blocked"
    UNKNOWN = "unknown"


MAY_BE_BILLED = frozenset({
    Outcome.TIMEOUT_READ, Outcome.TIMEOUT_SERVER, Outcome.CANCELLED, Outcome.INTERRUPTED,
})  # fmt: skip
"""No answer came, but the provider may have worked on the request: what it bills is not known, and is not zero."""

QUOTA_CODES = frozenset({
    "insufficient_quota", "billing_error", "billing_not_active", "credit_balance_exhausted", "usage_limit_exceeded",
    "enforced_spend_limit_reached", "contract_spend_limit_reached", "project_spend_limit_exceeded",
    "organization_spend_limit_exceeded", "user_profile_not_billable",
})  # fmt: skip

# The wire's own word wins over the HTTP status: a spend limit is a 429 that no waiting mends.
BY_CODE = {
    **dict.fromkeys(QUOTA_CODES, Outcome.QUOTA),
    "rate_limit_error": Outcome.RATE_LIMITED,
    "rate_limit_exceeded": Outcome.RATE_LIMITED,
    "overloaded_error": Outcome.OVERLOADED,
    "server_overloaded": Outcome.OVERLOADED,
    "flex_unavailable": Outcome.OVERLOADED,
    "timeout_error": Outcome.TIMEOUT_SERVER,
    "request_timeout": Outcome.TIMEOUT_SERVER,
    "authentication_error": Outcome.AUTH,
    "invalid_api_key": Outcome.AUTH,
    "permission_error": Outcome.PERMISSION,
    "not_found_error": Outcome.NOT_FOUND,
    "model_not_found": Outcome.NOT_FOUND,
    "context_length_exceeded": Outcome.CONTEXT_LENGTH,
    "request_too_large": Outcome.TOO_LARGE,
    "content_filter": Outcome.REFUSAL,
    "content_policy_violation": Outcome.REFUSAL,
    "bio_policy": Outcome.REFUSAL,
    "misalignment_policy_violation": Outcome.REFUSAL,
    "image_content_policy_violation": Outcome.REFUSAL,
    "invalid_prompt": Outcome.REFUSAL,
    "api_error": Outcome.SERVER_ERROR,
    "server_error": Outcome.SERVER_ERROR,
    "invalid_request_error": Outcome.INVALID_REQUEST,
}

BY_STATUS = {
    401: Outcome.AUTH,
    402: Outcome.QUOTA,
    403: Outcome.PERMISSION,
    404: Outcome.NOT_FOUND,
    408: Outcome.TIMEOUT_SERVER,
    413: Outcome.TOO_LARGE,
    429: Outcome.RATE_LIMITED,
    499: Outcome.CANCELLED,
    503: Outcome.OVERLOADED,
    504: Outcome.TIMEOUT_SERVER,
    529: Outcome.OVERLOADED,
}

BY_STOP_REASON = {
    "max_tokens": Outcome.TRUNCATED,
    "max_output_tokens": Outcome.TRUNCATED,
    "length": Outcome.TRUNCATED,
    "model_context_window_exceeded": Outcome.CONTEXT_LENGTH,
    "refusal": Outcome.REFUSAL,
    "content_filter": Outcome.REFUSAL,
}


TOLD: dict[str, str] = {
    Outcome.OK: "answered",
    Outcome.RATE_LIMITED: "rate limit of the provider",
    Outcome.QUOTA: "quota or credit used up at the provider",
    Outcome.OVERLOADED: "provider overloaded",
    Outcome.TIMEOUT_CONNECT: "no connection in time",
    Outcome.TIMEOUT_POOL: "no free connection in the app in time",
    Outcome.TIMEOUT_READ: "no answer in time",
    Outcome.TIMEOUT_WRITE: "request not sent in time",
    Outcome.TIMEOUT_SERVER: "provider timed out",
    Outcome.CONNECTION: "connection failed",
    Outcome.AUTH: "API key refused",
    Outcome.PERMISSION: "not permitted for this key",
    Outcome.NOT_FOUND: "no such model or address",
    Outcome.INVALID_REQUEST: "request refused as invalid",
    Outcome.TOO_LARGE: "request too large",
    Outcome.CONTEXT_LENGTH: "longer than the model's context",
    Outcome.REFUSAL: "refused by the model or its filter",
    Outcome.TRUNCATED: "cut at the output limit",
    Outcome.SERVER_ERROR: "error in the provider",
    Outcome.STREAM_INTERRUPTED: "stream broke off",
    Outcome.INVALID_OUTPUT: "answer did not parse",
    Outcome.CANCELLED: "cancelled by the app",
    Outcome.ABANDONED: "stream closed early by the app",
    Outcome.INTERRUPTED: "cut off by the end of the app's process",
    Outcome.BUDGET_BLOCKED: "blocked by a budget, nothing was sent",
    Outcome.UNKNOWN: "failed, cause unknown",
}
"""How a call ended, as the pages and the terminal say it."""


def outcome_of_status(status: int, *codes: str | None, message: str = "") -> Outcome:
    """Return how an HTTP answer with ``status`` ended, told by the wire's ``codes`` first, then by the status.

    ``codes`` are what the body calls its ``error.type`` and ``error.code``, the most telling first.
    Source of the words: the error types in anthropic 0.40 to 2.12 and openai 1.40 to 3.54, and both error references.
    """
    if "prompt is too long" in message:
        return Outcome.CONTEXT_LENGTH
    named = [BY_CODE[code] for code in codes if code in BY_CODE]
    # "invalid_request_error" is a catch-all that also rides on 401 and 404 bodies of OpenAI, beside a better word, as
    # "server_error" rides on a 503 that says overloaded, and "api_error" on a 504.
    for outcome in named:
        if outcome not in {Outcome.INVALID_REQUEST, Outcome.SERVER_ERROR}:
            return outcome
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status >= 500 or Outcome.SERVER_ERROR in named:
        return Outcome.SERVER_ERROR
    if status >= 400 or named:
        return Outcome.INVALID_REQUEST
    # An error event in a stream comes under the status 200 that the stream began with.
    return Outcome.UNKNOWN if any(codes) else Outcome.OK


def outcome_of_stop(reason: str | None) -> Outcome:
    """Return how an answered call ended by its stop or finish ``reason``; most reasons are a success."""
    return BY_STOP_REASON.get(reason or "", Outcome.OK)
