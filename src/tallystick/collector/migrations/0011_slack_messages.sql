-- Where a Slack bot told an alert, so that later levels of the same window can change that message.
ALTER TABLE alerts ADD COLUMN slack_channel VARCHAR;
ALTER TABLE alerts ADD COLUMN slack_ts VARCHAR;
