-- Who may do what: verifiers of SCRAM, access control lists, quotas of clients, and which resource manages a user.
--
-- owner is the resource that manages a row; it is empty for a row made by hand.

-- Rises with every change of scram_credentials, acls and client_quotas. Such a change raises version too, by which agents notice it.
ALTER TABLE cluster ADD COLUMN security_version INTEGER NOT NULL DEFAULT 0;

-- By which agents prove to each other that they are agents. The first one that needs it makes it.
ALTER TABLE cluster ADD COLUMN agent_secret BLOB;

-- Which resource manages a user. The unique row decides between two resources, also for users without a password.
CREATE TABLE user_owners (
    user_name   TEXT    PRIMARY KEY,
    owner       TEXT    NOT NULL UNIQUE,
    claimed_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The owner is that of the user's row in user_owners.
CREATE TABLE scram_credentials (
    user_name   TEXT    NOT NULL,
    mechanism   TEXT    NOT NULL,
    salt        BLOB    NOT NULL,
    iterations  INTEGER NOT NULL,
    stored_key  BLOB    NOT NULL,
    server_key  BLOB    NOT NULL,
    owner       TEXT    NOT NULL,
    PRIMARY KEY (user_name, mechanism)
) STRICT, WITHOUT ROWID;

CREATE INDEX scram_credentials_owner ON scram_credentials (owner) WHERE owner <> '';

-- Several owners may each have the same entry: it is in force until the last of them is gone.
CREATE TABLE acls (
    principal       TEXT    NOT NULL,
    resource_type   TEXT    NOT NULL,
    resource_name   TEXT    NOT NULL,
    pattern_type    TEXT    NOT NULL,
    host            TEXT    NOT NULL,
    operation       TEXT    NOT NULL,
    permission      TEXT    NOT NULL,
    owner           TEXT    NOT NULL,
    PRIMARY KEY (principal, resource_type, resource_name, pattern_type, host, operation, permission, owner)
) STRICT, WITHOUT ROWID;

CREATE INDEX acls_owner ON acls (owner) WHERE owner <> '';

CREATE TABLE client_quotas (
    -- Each of the three is empty for none, * for the default, otherwise = and the name.
    user_name   TEXT    NOT NULL,
    client_id   TEXT    NOT NULL,
    ip          TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    value       REAL    NOT NULL,
    owner       TEXT    NOT NULL,
    PRIMARY KEY (user_name, client_id, ip, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX client_quotas_owner ON client_quotas (owner) WHERE owner <> '';
