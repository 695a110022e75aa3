-- Every price book that units were priced with, as it was; rows are only ever added.
CREATE TABLE price_version (
    version VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    recorded_at TIMESTAMP NOT NULL,
    document VARCHAR NOT NULL
);

-- What a repricing was asked to do, and that it is done.
CREATE TABLE reprices (
    id VARCHAR NOT NULL,
    asked_at TIMESTAMP NOT NULL,
    range_start TIMESTAMP NOT NULL,
    range_end TIMESTAMP NOT NULL,
    provider VARCHAR,
    model VARCHAR,
    price_version VARCHAR NOT NULL,
    examined BIGINT NOT NULL
);

-- The figures that a repricing replaced, beside the new ones.
CREATE TABLE unit_revisions (
    reprice_id VARCHAR NOT NULL,
    trace_id VARCHAR NOT NULL,
    call_id VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    provider VARCHAR NOT NULL,
    model VARCHAR,
    revised_at TIMESTAMP NOT NULL,
    old_cost_usd DECIMAL(18, 12),
    old_cost_status VARCHAR NOT NULL,
    old_price_version VARCHAR,
    old_receipt VARCHAR,
    cost_usd DECIMAL(18, 12),
    cost_status VARCHAR NOT NULL,
    price_version VARCHAR
);
