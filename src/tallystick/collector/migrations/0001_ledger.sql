-- No primary keys on what grows: they cost 55 to 70 % more CPU, and commits then wait for checkpoints (duckdb#20052).
-- Times are UTC.  Money is USD.

CREATE TABLE meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL);

CREATE TABLE counters (name VARCHAR NOT NULL, count BIGINT NOT NULL);

-- One row per logical call.  cost_usd is the sum of what its units are known to cost, NULL when there are units and none is.
CREATE TABLE calls (
    id VARCHAR NOT NULL,
    trace_id VARCHAR NOT NULL,
    parent_id VARCHAR,
    started_at TIMESTAMP NOT NULL,
    received_at TIMESTAMP NOT NULL,
    latency_ms DOUBLE,
    first_chunk_ms DOUBLE,
    operation VARCHAR,
    provider VARCHAR,
    model VARCHAR,
    response_model VARCHAR,
    outcome VARCHAR NOT NULL,
    error_code VARCHAR,
    exception VARCHAR,
    stream BOOLEAN,
    attempts INTEGER NOT NULL,
    units INTEGER NOT NULL,
    unpriced_units INTEGER NOT NULL,
    estimated_units INTEGER NOT NULL,
    cost_usd DECIMAL(18, 12),
    estimated_usd DECIMAL(18, 12) NOT NULL,
    cost_status VARCHAR,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    service VARCHAR,
    environment VARCHAR,
    feature VARCHAR,
    user_id VARCHAR,
    session_id VARCHAR,
    prompt VARCHAR,
    key_id VARCHAR,
    caller VARCHAR,
    tags MAP(VARCHAR, VARCHAR),
    finish_reasons VARCHAR[],
    source VARCHAR NOT NULL,
    precedence TINYINT NOT NULL,
    attributes MAP(VARCHAR, VARCHAR)
);

-- Billable responses: what a cost is made from, now and again when a price changes.
CREATE TABLE units (
    call_id VARCHAR NOT NULL,
    trace_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    unit_id VARCHAR,
    provider VARCHAR NOT NULL,
    model VARCHAR,
    api VARCHAR,
    answered_at TIMESTAMP NOT NULL,
    usage VARCHAR,
    params VARCHAR,
    estimated BOOLEAN NOT NULL,
    cost_usd DECIMAL(18, 12),
    cost_status VARCHAR NOT NULL,
    price_version VARCHAR,
    receipt VARCHAR,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    source VARCHAR NOT NULL,
    precedence TINYINT NOT NULL
);

CREATE TABLE attempts (
    id VARCHAR NOT NULL,
    trace_id VARCHAR NOT NULL,
    call_id VARCHAR,
    number INTEGER NOT NULL,
    started_at TIMESTAMP NOT NULL,
    received_at TIMESTAMP NOT NULL,
    duration_ms DOUBLE,
    status INTEGER,
    outcome VARCHAR,
    request_id VARCHAR,
    retry_after_s DOUBLE,
    error_type VARCHAR
);

-- The rest of the traces, and the spans of other emitters.
CREATE TABLE spans (
    id VARCHAR NOT NULL,
    trace_id VARCHAR NOT NULL,
    parent_id VARCHAR,
    started_at TIMESTAMP NOT NULL,
    received_at TIMESTAMP NOT NULL,
    duration_ms DOUBLE,
    name VARCHAR,
    kind TINYINT NOT NULL,
    status TINYINT NOT NULL,
    status_message VARCHAR,
    scope VARCHAR,
    service VARCHAR,
    environment VARCHAR,
    attributes MAP(VARCHAR, VARCHAR)
);

CREATE TABLE alerts (
    id VARCHAR NOT NULL,
    budget VARCHAR NOT NULL,
    window_start TIMESTAMP NOT NULL,
    window_end TIMESTAMP NOT NULL,
    threshold VARCHAR NOT NULL,
    limit_usd VARCHAR NOT NULL,
    spent_usd VARCHAR NOT NULL,
    raised_at TIMESTAMP NOT NULL,
    state VARCHAR NOT NULL,
    delivered_at TIMESTAMP,
    deliveries INTEGER NOT NULL,
    error VARCHAR
);

-- Alerts that are still to be delivered, with the message as it was when they were raised.
CREATE TABLE outbox (
    alert_id VARCHAR NOT NULL,
    message VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    not_before TIMESTAMP NOT NULL,
    is_ambiguous BOOLEAN NOT NULL
);
