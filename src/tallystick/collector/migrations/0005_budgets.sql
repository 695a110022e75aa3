-- What a call held in the budgets that enforce; NULL when it never asked.
ALTER TABLE calls ADD COLUMN reservation_id VARCHAR;

-- Calls that a budget did not let through, each with its reason and the arithmetic.
CREATE TABLE refusals (
    id VARCHAR NOT NULL,
    refused_at TIMESTAMP NOT NULL,
    budget VARCHAR NOT NULL,
    budget_group MAP(VARCHAR, VARCHAR) NOT NULL,
    action VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    unit VARCHAR NOT NULL,
    limit_amount VARCHAR NOT NULL,
    spent VARCHAR NOT NULL,
    reserved VARCHAR NOT NULL,
    needed VARCHAR,
    window_start TIMESTAMP NOT NULL,
    window_end TIMESTAMP NOT NULL,
    resets_at TIMESTAMP,
    dimensions MAP(VARCHAR, VARCHAR) NOT NULL
);

-- Who changed which budget when, and how it was from then on (NULL: it is gone).
CREATE TABLE budget_changes (
    changed_at TIMESTAMP NOT NULL,
    budget VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    definition VARCHAR
);
