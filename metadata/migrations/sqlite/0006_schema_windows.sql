-- The schema versions that the agent runs on; NULL if it registered on schema 5.
ALTER TABLE agents ADD COLUMN schema_min INTEGER;
ALTER TABLE agents ADD COLUMN schema_max INTEGER;
