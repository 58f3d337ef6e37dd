-- Who may do what: verifiers of SCRAM, access control lists, quotas of clients, and which resource manages a user.
--
-- owner is the resource that manages a row; it is empty for a row made by hand.

-- Rises with every change of scram_credentials, acls and client_quotas. Such a change raises version too, by which agents notice it.
ALTER TABLE cluster ADD COLUMN security_version bigint NOT NULL DEFAULT 0;

-- By which agents prove to each other that they are agents. The first one that needs it makes it.
ALTER TABLE cluster ADD COLUMN agent_secret bytea;

-- Which resource manages a user. The unique row decides between two resources, also for users without a password.
CREATE TABLE user_owners (
    user_name   text        PRIMARY KEY,
    owner       text        NOT NULL UNIQUE,
    claimed_at  timestamptz NOT NULL DEFAULT now()
);

-- No constraint on the keys: PostgreSQL writes a row that fails one to its log. The owner is that of the user's row in user_owners.
CREATE TABLE scram_credentials (
    user_name   text        NOT NULL,
    mechanism   text        NOT NULL,
    salt        bytea       NOT NULL,
    iterations  integer     NOT NULL,
    stored_key  bytea       NOT NULL,
    server_key  bytea       NOT NULL,
    owner       text        NOT NULL,
    PRIMARY KEY (user_name, mechanism)
);

CREATE INDEX scram_credentials_owner ON scram_credentials (owner) WHERE owner <> '';

-- Several owners may each have the same entry: it is in force until the last of them is gone.
CREATE TABLE acls (
    principal       text    NOT NULL,
    resource_type   text    NOT NULL,
    resource_name   text    NOT NULL,
    pattern_type    text    NOT NULL,
    host            text    NOT NULL,
    operation       text    NOT NULL,
    permission      text    NOT NULL,
    owner           text    NOT NULL,
    PRIMARY KEY (principal, resource_type, resource_name, pattern_type, host, operation, permission, owner)
);

CREATE INDEX acls_owner ON acls (owner) WHERE owner <> '';

CREATE TABLE client_quotas (
    -- Each of the three is empty for none, * for the default, otherwise = and the name.
    user_name   text                NOT NULL,
    client_id   text                NOT NULL,
    ip          text                NOT NULL,
    key         text                NOT NULL,
    value       double precision    NOT NULL,
    owner       text                NOT NULL,
    PRIMARY KEY (user_name, client_id, ip, key)
);

CREATE INDEX client_quotas_owner ON client_quotas (owner) WHERE owner <> '';
