import pytest

from tallystick.model.failures import BY_CODE, BY_STATUS, BY_STOP_REASON, Outcome, outcome_of_status, outcome_of_stop


@pytest.mark.parametrize(
    ("status", "codes", "outcome"),
    [
        pytest.param(200, [], "ok", id="success"),
        pytest.param(200, [None, None], "ok", id="success-without-codes"),
        pytest.param(307, [], "ok", id="redirect-that-the-sdk-follows"),
        pytest.param(429, ["rate_limit_error"], "rate_limited", id="anthropic-rate-limit"),
        pytest.param(429, [], "rate_limited", id="status-only"),
        pytest.param(429, [None, "rate_limit_exceeded", "requests"], "rate_limited", id="openai-rate-limit"),
        pytest.param(429, ["insufficient_quota", "insufficient_quota"], "quota", id="a-spend-limit-is-no-rate-limit"),
        pytest.param(402, ["billing_error"], "quota", id="anthropic-billing"),
        pytest.param(400, ["billing_not_active"], "quota", id="billing-not-active"),
        pytest.param(529, ["overloaded_error"], "overloaded", id="anthropic-overloaded"),
        pytest.param(200, ["overloaded_error"], "overloaded", id="overloaded-in-a-stream-that-began-with-200"),
        pytest.param(200, ["a_word_nobody_lists"], "unknown", id="unknown-error-in-a-stream-is-no-success"),
        pytest.param(200, ["invalid_request_error"], "invalid_request", id="catch-all-in-a-stream-is-no-success"),
        pytest.param(401, ["invalid_api_key", "invalid_request_error"], "auth", id="openai-wrong-key"),
        pytest.param(401, ["invalid_request_error"], "auth", id="the-catch-all-loses-to-the-status"),
        pytest.param(404, [None, "invalid_request_error"], "not_found", id="the-catch-all-on-404"),
        pytest.param(403, ["permission_error"], "permission", id="permission"),
        pytest.param(404, ["model_not_found", "invalid_request_error"], "not_found", id="no-such-model"),
        pytest.param(400, ["context_length_exceeded", "invalid_request_error"], "context_length", id="context"),
        pytest.param(400, ["invalid_request_error", "context_length_exceeded"], "context_length", id="in-any-order"),
        pytest.param(400, ["invalid_request_error"], "invalid_request", id="bad-request"),
        pytest.param(400, ["content_policy_violation"], "refusal", id="refused-picture"),
        pytest.param(413, ["request_too_large"], "too_large", id="too-large"),
        pytest.param(408, [], "timeout_server", id="request-timeout"),
        pytest.param(504, ["timeout_error"], "timeout_server", id="gateway-timeout"),
        pytest.param(409, [], "invalid_request", id="unlisted-4xx"),
        pytest.param(422, ["a_word_nobody_lists"], "invalid_request", id="unlisted-code"),
        pytest.param(499, [], "cancelled", id="client-closed"),
        pytest.param(500, ["api_error"], "server_error", id="api-error"),
        pytest.param(500, ["invalid_request_error"], "server_error", id="the-catch-all-on-500"),
        pytest.param(503, [], "overloaded", id="unavailable"),
        pytest.param(520, [], "server_error", id="unlisted-5xx"),
    ],
)
def test_the_wires_word_decides_before_the_status(status: int, codes: list[str | None], outcome: str) -> None:
    assert outcome_of_status(status, *codes) == outcome


def test_a_prompt_that_is_too_long_is_told_by_its_message_alone() -> None:
    message = "prompt is too long: 214313 tokens > 200000 maximum"

    assert outcome_of_status(400, "invalid_request_error", message=message) is Outcome.CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("end_turn", "ok"), ("stop", "ok"), ("tool_use", "ok"), ("tool_calls", "ok"), ("stop_sequence", "ok"),
        ("pause_turn", "ok"), ("function_call", "ok"), (None, "ok"), ("", "ok"), ("a_reason_nobody_lists", "ok"),
        ("max_tokens", "truncated"), ("length", "truncated"), ("max_output_tokens", "truncated"),
        ("refusal", "refusal"), ("content_filter", "refusal"), ("model_context_window_exceeded", "context_length"),
    ],
)  # fmt: skip
def test_a_stop_reason_says_whether_the_answer_is_usable(reason: str | None, outcome: str) -> None:
    assert outcome_of_stop(reason) == outcome


def test_no_failure_is_read_as_a_success() -> None:
    assert Outcome.OK not in {*BY_CODE.values(), *BY_STATUS.values(), *BY_STOP_REASON.values()}
