-- Of which group of a budget an alert is (JSON, by dimension; NULL: the budget has none), and what its figures count.
ALTER TABLE alerts ADD COLUMN budget_group VARCHAR;
ALTER TABLE alerts ADD COLUMN unit VARCHAR DEFAULT 'usd';
