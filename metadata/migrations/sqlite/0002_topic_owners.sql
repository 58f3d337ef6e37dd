-- Which Kubernetes Topic resource manages a topic's name. The unique row decides between two resources; it may stand before the
-- topic does, and stays when the topic goes.
CREATE TABLE topic_owners (
    name        TEXT    PRIMARY KEY,
    -- Of the resource: unique for ever, also when another of the same name follows.
    uid         TEXT    NOT NULL,
    namespace   TEXT    NOT NULL,
    resource    TEXT    NOT NULL,
    claimed_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Lives that are over and done with, to be forgotten after a while.
CREATE INDEX agents_swept ON agents (swept_at) WHERE swept_at IS NOT NULL;
