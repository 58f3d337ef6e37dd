//! The Lease in Kubernetes. Every write replaces the object at the version that was read, so that
//! the API server rejects the later of two writers; with a patch without a version both would
//! succeed. Fields and labels set by other clients are kept.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;

use super::{
    state::{LeaseRecord, VersionedLease},
    store::{LeaseStore, LeaseStoreError},
};
use crate::crd::FIELD_MANAGER;

/// A store for one Lease object.
pub struct KubernetesLeaseStore {
    api: Api<Lease>,
    namespace: String,
    name: String,
    /// The object as last read or written; the base of the next replacement.
    last: Mutex<Option<Lease>>,
}

impl std::fmt::Debug for KubernetesLeaseStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KubernetesLease({}/{})", self.namespace, self.name)
    }
}

impl KubernetesLeaseStore {
    /// Creates a store for the Lease of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            last: Mutex::new(None),
        }
    }

    /// Caches the object and returns its record.
    fn cache_lease(&self, lease: Lease) -> VersionedLease {
        let stored = parse_lease(&lease);
        *self.last.lock() = Some(lease);
        stored
    }

    /// Classifies the error of a failed call.
    fn classify_error(&self, what: &str, error: &kube::Error) -> LeaseStoreError {
        match error {
            kube::Error::Api(status) if status.code == 409 => LeaseStoreError::Conflict,
            kube::Error::Api(status) if status.code == 403 => LeaseStoreError::Failed(format!(
                "not permitted to {what} the lease {}/{}: grant get, create and update of leases ({})",
                self.namespace, self.name, status.message
            )),
            kube::Error::Api(status) if status.code == 404 => LeaseStoreError::Failed(format!(
                "cannot {what} the lease {}/{}: does the namespace exist? ({})",
                self.namespace, self.name, status.message
            )),
            error => LeaseStoreError::Failed(format!(
                "cannot {what} the lease {}/{}: {error}",
                self.namespace, self.name
            )),
        }
    }
}

#[async_trait]
impl LeaseStore for KubernetesLeaseStore {
    async fn get(&self) -> Result<Option<VersionedLease>, LeaseStoreError> {
        // Without a resource version the API server reads from etcd instead of its cache.
        let found = self.api.get_opt(&self.name).await;
        let found = found.map_err(|error| self.classify_error("get", &error))?;
        Ok(found.map(|lease| self.cache_lease(lease)))
    }

    async fn create(&self, record: &LeaseRecord) -> Result<VersionedLease, LeaseStoreError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(lease_spec(record, None)),
        };
        let created = self.api.create(&post_params(), &lease).await;
        let created = created.map_err(|error| self.classify_error("create", &error))?;
        Ok(self.cache_lease(created))
    }

    async fn update(&self, record: &LeaseRecord, version: &str) -> Result<VersionedLease, LeaseStoreError> {
        let last = self.last.lock().clone();
        let same = last.filter(|lease| lease.metadata.resource_version.as_deref() == Some(version));
        let Some(mut lease) = same else {
            // A newer version was read meanwhile.
            return Err(LeaseStoreError::Conflict);
        };
        // Maintained by the API server; not needed in the replacement.
        lease.metadata.managed_fields = None;
        lease.spec = Some(lease_spec(record, lease.spec.as_ref()));
        let replaced = self.api.replace(&self.name, &post_params(), &lease).await;
        match replaced {
            Ok(lease) => Ok(self.cache_lease(lease)),
            // Deleted meanwhile: the next read shows it.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(LeaseStoreError::Conflict),
            Err(error) => Err(self.classify_error("update", &error)),
        }
    }
}

fn post_params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn parse_lease(lease: &Lease) -> VersionedLease {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let micros = |time: Option<MicroTime>| time.map_or(0, |time| time.0.as_microsecond());
    let record = LeaseRecord {
        holder: spec.holder_identity,
        duration: seconds.map(Duration::from_secs),
        acquired_us: micros(spec.acquire_time),
        renewed_us: micros(spec.renew_time),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    VersionedLease {
        record,
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Merges the record into the remaining fields of the spec.
fn lease_spec(record: &LeaseRecord, before: Option<&LeaseSpec>) -> LeaseSpec {
    let time = |micros: i64| Timestamp::from_microsecond(micros).ok().map(MicroTime);
    // The API server accepts only whole seconds of at least one.
    let seconds = record.duration.map(|duration| duration.as_secs().max(1));
    LeaseSpec {
        holder_identity: Some(record.holder.clone().unwrap_or_default()),
        lease_duration_seconds: seconds.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX)),
        acquire_time: time(record.acquired_us),
        renew_time: time(record.renewed_us),
        lease_transitions: Some(record.transitions),
        ..before.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let record = LeaseRecord {
            holder: Some("a".to_owned()),
            duration: Some(Duration::from_secs(15)),
            acquired_us: 1_700_000_000_123_456,
            renewed_us: 1_700_000_001_000_001,
            transitions: 7,
        };
        let before = LeaseSpec {
            strategy: Some("OldestEmulationVersion".to_owned()),
            ..LeaseSpec::default()
        };
        let lease = Lease {
            spec: Some(lease_spec(&record, Some(&before))),
            ..Lease::default()
        };
        assert_eq!(parse_lease(&lease).record, record);
        assert_eq!(
            lease.spec.unwrap().strategy,
            before.strategy,
            "unknown fields are kept"
        );
    }
}
