-- The parts of the archive that hold rows which are no longer in this file; a dropped one holds none any more.
CREATE TABLE archive_parts (
    part INTEGER NOT NULL,
    upto TIMESTAMP NOT NULL,
    first_at TIMESTAMP,
    last_at TIMESTAMP,
    spans BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    dropped BOOLEAN NOT NULL
);
