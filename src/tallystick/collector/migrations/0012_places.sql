-- In which hour (counted from 1970) the rows of a call or a trace lie, by the first 8 digits of its id as a number.
CREATE TABLE places (head UINTEGER NOT NULL, hour INTEGER NOT NULL);
