//! Paths of files from Secrets in an agent's container. Settings reference them and volume mounts
//! provide them.

/// Directory with one subdirectory per listener with a certificate.
pub(super) const TLS_DIR: &str = "/etc/streamhouse/tls";
/// Directory of the file of the additional listeners.
pub(super) const LISTENERS_DIR: &str = "/etc/streamhouse/listeners";
/// File of the additional listeners in [`LISTENERS_DIR`].
pub(super) const LISTENERS_FILE: &str = "/etc/streamhouse/listeners/listeners.yaml";
/// Directory of the OAuth file.
pub(super) const OAUTH_DIR: &str = "/etc/streamhouse/oauth";
/// The file that says whose tokens are accepted, in [`OAUTH_DIR`].
pub(super) const OAUTH_FILE: &str = "/etc/streamhouse/oauth/oauth.yaml";
/// Directory of the database's CA certificate.
pub(super) const DATABASE_CA_DIR: &str = "/etc/streamhouse/postgresql";
/// Directory of the object store's CA certificate.
pub(super) const STORE_CA_DIR: &str = "/etc/streamhouse/object-storage";
/// CA certificate in [`STORE_CA_DIR`].
pub(super) const STORE_CA_FILE: &str = "/etc/streamhouse/object-storage/ca.crt";
/// CA certificate in [`DATABASE_CA_DIR`].
pub(super) const DATABASE_CA_FILE: &str = "/etc/streamhouse/postgresql/ca.crt";
