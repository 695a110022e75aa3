-- The sums of each hour, by what has few values.  A frozen row is of calls that are gone, and is kept as it is.
CREATE TABLE rollup_hour (
    hour TIMESTAMP NOT NULL,
    provider VARCHAR,
    model VARCHAR,
    feature VARCHAR,
    service VARCHAR,
    environment VARCHAR,
    key_id VARCHAR,
    outcome VARCHAR NOT NULL,
    cost_status VARCHAR,
    frozen BOOLEAN NOT NULL,
    calls BIGINT NOT NULL,
    spend_usd DECIMAL(38, 12),
    retried BIGINT NOT NULL,
    attempts_extra BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    units BIGINT NOT NULL,
    estimated_usd DECIMAL(38, 12) NOT NULL,
    unpriced_units BIGINT NOT NULL,
    estimated_units BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    first_at TIMESTAMP NOT NULL,
    last_at TIMESTAMP NOT NULL,
    -- How many calls had a latency of which size: round(ln(ms) * 25).
    sizes SMALLINT[],
    counts BIGINT[]
);

-- The attempts that began in the hour and of which there is something to tell, by what is known of their calls.
CREATE TABLE rollup_tried (
    hour TIMESTAMP NOT NULL,
    provider VARCHAR,
    model VARCHAR,
    feature VARCHAR,
    service VARCHAR,
    environment VARCHAR,
    key_id VARCHAR,
    outcome VARCHAR NOT NULL,
    cost_status VARCHAR,
    frozen BOOLEAN NOT NULL,
    tried_outcome VARCHAR,
    tried BIGINT NOT NULL,
    last_at TIMESTAMP NOT NULL,
    retry_after_s DOUBLE NOT NULL,
    waited_s DOUBLE NOT NULL
);

-- Hours of which rows have changed since they were summed.
CREATE TABLE rollup_dirty (hour TIMESTAMP NOT NULL);
INSERT INTO rollup_dirty
    SELECT date_trunc('hour', started_at) FROM calls UNION SELECT date_trunc('hour', started_at) FROM attempts;
