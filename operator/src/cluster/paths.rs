//! Where files from Secrets are in an agent's container. Settings name these places and mounts fill them.

/// A folder for each listener with a certificate.
pub(super) const TLS: &str = "/etc/streamhouse/tls";
/// The folder of the database's authority.
pub(super) const DATABASE: &str = "/etc/streamhouse/postgresql";
/// The folder of the object store's authority.
pub(super) const STORE: &str = "/etc/streamhouse/object-storage";
/// The file in [`STORE`].
pub(super) const STORE_AUTHORITY: &str = "/etc/streamhouse/object-storage/ca.crt";
/// The file in [`DATABASE`].
pub(super) const DATABASE_AUTHORITY: &str = "/etc/streamhouse/postgresql/ca.crt";
