-- Names that come back: a topic's name is free as soon as the topic is deleted, and no object key is ever used twice.

-- How many folders a name was given. Rows are never deleted: a folder is given once, also when its topic's row is long gone.
CREATE TABLE topic_names (
    name    text    PRIMARY KEY,
    uses    bigint  NOT NULL CHECK (uses > 0)
);

INSERT INTO topic_names (name, uses) SELECT name, 1 FROM topics;

-- What the keys of the topic's segments begin with: the name, or for a name that was used before the name, an @ and a number.
ALTER TABLE topics ADD COLUMN folder text;
UPDATE topics SET folder = name;
ALTER TABLE topics ALTER COLUMN folder SET NOT NULL;
ALTER TABLE topics ADD CONSTRAINT topics_folder_key UNIQUE (folder);

-- Unique among the topics that are not deleted.
ALTER TABLE topics DROP CONSTRAINT topics_name_key;
CREATE UNIQUE INDEX topics_live_name ON topics (name) WHERE deleted_at IS NULL;

-- Segments that a life of an agent began and did not finish, and whose intent is gone or another's: its put may still arrive.
-- They are deleted once more when that life has been over for the grace, and at the last look at it.
CREATE TABLE abandoned_segments (
    incarnation     bigint      NOT NULL,
    key             text        NOT NULL,
    partition_id    bigint      NOT NULL,
    base_offset     bigint      NOT NULL,
    topic_id        uuid        NOT NULL,
    -- When it was queued for deletion because the life was over.
    queued_at       timestamptz,
    PRIMARY KEY (incarnation, key)
);

CREATE INDEX abandoned_segments_waiting ON abandoned_segments (incarnation) WHERE queued_at IS NULL;

-- The life's objects are looked through once more before its row is forgotten.
ALTER TABLE agents ADD COLUMN last_look boolean NOT NULL DEFAULT false;

-- Builds without folders wrote segments under the topic's name. They fail here instead, until they are replaced.
ALTER TABLE segment_intents ADD COLUMN topic_id uuid;
UPDATE segment_intents i SET topic_id = p.topic_id FROM partitions p WHERE p.id = i.partition_id;
DELETE FROM segment_intents WHERE topic_id IS NULL;
ALTER TABLE segment_intents ALTER COLUMN topic_id SET NOT NULL;
