-- What an application's callers have had sent again of late: when all that they used of a day's worth will be there again
-- (domain/allowance.rs). No row is the same as an instant in the past.
CREATE TABLE asked (
    application_no INTEGER PRIMARY KEY,
    whole_at INTEGER NOT NULL
) STRICT;
