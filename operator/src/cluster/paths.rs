//! Paths of files from Secrets in an agent's container. Settings reference them and volume mounts
//! provide them.

/// Directory with one subdirectory per listener with a certificate.
pub(super) const TLS: &str = "/etc/streamhouse/tls";
/// Directory of the database's CA certificate.
pub(super) const DATABASE: &str = "/etc/streamhouse/postgresql";
/// Directory of the object store's CA certificate.
pub(super) const STORE: &str = "/etc/streamhouse/object-storage";
/// CA certificate in [`STORE`].
pub(super) const STORE_AUTHORITY: &str = "/etc/streamhouse/object-storage/ca.crt";
/// CA certificate in [`DATABASE`].
pub(super) const DATABASE_AUTHORITY: &str = "/etc/streamhouse/postgresql/ca.crt";
