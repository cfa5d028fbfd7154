-- What lists read: a page costs what is on it.

-- Schemas of event types may have a megabyte. Whatever stands behind them in a row is read through all of their pages, so they are
-- last.
ALTER TABLE event_type RENAME TO former_event_type;

CREATE TABLE event_type (
    environment_no INTEGER NOT NULL REFERENCES environment (no),
    name           TEXT NOT NULL,
    description    TEXT NOT NULL,
    archived       INTEGER NOT NULL,
    deprecated     INTEGER NOT NULL,
    feature_flag   TEXT,
    group_name     TEXT,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    schemas        TEXT,
    PRIMARY KEY (environment_no, name)
) STRICT;

INSERT INTO event_type (environment_no, name, description, archived, deprecated, feature_flag, group_name, created_at, updated_at,
                        schemas)
SELECT environment_no, name, description, archived, deprecated, feature_flag, group_name, created_at, updated_at, schemas
FROM former_event_type;

DROP TABLE former_event_type;

-- Applications that were deleted keep their rows: a list of the others does not come across them.
CREATE INDEX application_live ON application (environment_no, id) WHERE deleted_at IS NULL;

-- Whether an application has an endpoint that is not disabled, without looking through all that are.
CREATE INDEX endpoint_enabled ON endpoint (application_no) WHERE deleted_at IS NULL AND NOT disabled;
