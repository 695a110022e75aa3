-- Alerts that are no threshold of a budget: budget then holds what they are about, and limit and spend are empty.
ALTER TABLE alerts ADD COLUMN kind VARCHAR DEFAULT 'threshold';
ALTER TABLE alerts ADD COLUMN title VARCHAR;
ALTER TABLE alerts ADD COLUMN acked_at TIMESTAMP;
ALTER TABLE alerts ADD COLUMN snoozed_until TIMESTAMP;
-- Which channels have it, while others are still to be reached.
ALTER TABLE outbox ADD COLUMN reached VARCHAR[] DEFAULT [];
