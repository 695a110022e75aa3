-- What a request looks like without a word of it, what it asked for, and which calls are one piece of work: docs/spans.md.
ALTER TABLE calls ADD COLUMN max_tokens INTEGER;
ALTER TABLE calls ADD COLUMN digest VARCHAR;
ALTER TABLE calls ADD COLUMN template VARCHAR;
-- The beginnings of the prompt, the shortest first: their digests, and how many characters each has.
ALTER TABLE calls ADD COLUMN prefixes UBIGINT[];
ALTER TABLE calls ADD COLUMN prefix_characters INTEGER[];
ALTER TABLE calls ADD COLUMN request_characters INTEGER;
ALTER TABLE calls ADD COLUMN tools_characters INTEGER;
ALTER TABLE calls ADD COLUMN messages INTEGER;
-- The first call of the chain, itself for a call that goes on from none.
ALTER TABLE calls ADD COLUMN chain VARCHAR;
ALTER TABLE calls ADD COLUMN link VARCHAR;
ALTER TABLE calls ADD COLUMN link_index INTEGER;

ALTER TABLE attempts ADD COLUMN code VARCHAR;
ALTER TABLE attempts ADD COLUMN waited_s DOUBLE;
ALTER TABLE attempts ADD COLUMN should_retry BOOLEAN;
ALTER TABLE attempts ADD COLUMN requests_limit BIGINT;
ALTER TABLE attempts ADD COLUMN requests_remaining BIGINT;
ALTER TABLE attempts ADD COLUMN tokens_limit BIGINT;
ALTER TABLE attempts ADD COLUMN tokens_remaining BIGINT;
ALTER TABLE attempts ADD COLUMN input_tokens_limit BIGINT;
ALTER TABLE attempts ADD COLUMN input_tokens_remaining BIGINT;
ALTER TABLE attempts ADD COLUMN output_tokens_limit BIGINT;
ALTER TABLE attempts ADD COLUMN output_tokens_remaining BIGINT;

-- Of what is stored already, that which was among the other attributes; attempts, prefixes, and what is older than the
-- last 200,000 calls come with a rebuild: an UPDATE of many rows does not fit the memory.
UPDATE calls SET
    max_tokens = TRY_CAST(map_extract_value(attributes, 'gen_ai.request.max_tokens') AS INTEGER),
    digest = map_extract_value(attributes, 'tallystick.request_digest'),
    template = map_extract_value(attributes, 'tallystick.template'),
    request_characters = TRY_CAST(map_extract_value(attributes, 'tallystick.request.characters') AS INTEGER),
    tools_characters = TRY_CAST(map_extract_value(attributes, 'tallystick.request.tools_characters') AS INTEGER),
    messages = TRY_CAST(map_extract_value(attributes, 'tallystick.request.messages') AS INTEGER),
    chain = coalesce(map_extract_value(attributes, 'tallystick.link.id'), id),
    link = map_extract_value(attributes, 'tallystick.link.kind'),
    link_index = TRY_CAST(map_extract_value(attributes, 'tallystick.link.index') AS INTEGER)
WHERE rowid > (SELECT max(rowid) FROM calls) - 200000;
