-- What many receipts share, once, by a hash of itself; units.receipt holds "ID QUANTITIES COUNTS", or a whole receipt.
CREATE TABLE receipt_forms (id VARCHAR NOT NULL, form VARCHAR NOT NULL);
