-- Repricings that are not done yet: how far each has come.  When it is done its row moves to `reprices`.
CREATE TABLE repricing (
    id VARCHAR NOT NULL,
    asked_at TIMESTAMP NOT NULL,
    scope VARCHAR NOT NULL,
    done_to TIMESTAMP NOT NULL,
    examined BIGINT NOT NULL
);
