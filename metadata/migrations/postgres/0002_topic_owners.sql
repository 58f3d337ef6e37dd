-- Which Kubernetes Topic resource manages a topic's name. The unique row decides between two resources; it may stand before the
-- topic does, and stays when the topic goes.
CREATE TABLE topic_owners (
    name        text        PRIMARY KEY,
    -- Of the resource: unique for ever, also when another of the same name follows.
    uid         text        NOT NULL,
    namespace   text        NOT NULL,
    resource    text        NOT NULL,
    claimed_at  timestamptz NOT NULL DEFAULT now()
);

-- Lives that are over and done with, to be forgotten after a while.
CREATE INDEX agents_swept ON agents (swept_at) WHERE swept_at IS NOT NULL;
