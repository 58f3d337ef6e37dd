//! Discovers optional APIs: those of the Prometheus operator and of cert-manager. Checked at the
//! start and periodically, since they may be installed at any time. A missing API is a condition of
//! the resources that need it, not an error.

use std::collections::BTreeSet;

use kube::{Client, discovery};
use parking_lot::RwLock;
use tokio::sync::watch;

/// An API that may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptionalApi {
    /// ServiceMonitor and PrometheusRule.
    Monitoring,
    /// Certificate.
    CertManager,
}

impl OptionalApi {
    /// All optional APIs.
    pub const ALL: &'static [Self] = &[Self::Monitoring, Self::CertManager];

    /// Returns the API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Monitoring => "monitoring.coreos.com",
            Self::CertManager => "cert-manager.io",
        }
    }

    /// Returns the kinds that the operator creates.
    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Monitoring => &["ServiceMonitor", "PrometheusRule"],
            Self::CertManager => &["Certificate"],
        }
    }
}

/// The result of the last discovery.
#[derive(Debug)]
pub struct OptionalApis {
    found: RwLock<BTreeSet<OptionalApi>>,
    changed: watch::Sender<u64>,
}

impl Default for OptionalApis {
    fn default() -> Self {
        Self::with_found(&[])
    }
}

impl OptionalApis {
    /// Creates the state in which exactly these APIs are installed.
    pub fn with_found(found: &[OptionalApi]) -> Self {
        Self {
            found: RwLock::new(found.iter().copied().collect()),
            changed: watch::channel(0).0,
        }
    }

    /// Returns whether the API was installed at the last discovery.
    pub fn has(&self, api: OptionalApi) -> bool {
        self.found.read().contains(&api)
    }

    /// Discovers all optional APIs. The previous result is kept if the API server does not answer.
    ///
    /// # Errors
    ///
    /// Returns the error of the API server.
    pub async fn discover(&self, client: &Client) -> kube::Result<()> {
        let groups = client.list_api_groups().await?;
        let mut found = BTreeSet::new();
        for api in OptionalApi::ALL {
            if groups.groups.iter().any(|group| group.name == api.group()) && is_served(client, *api).await? {
                found.insert(*api);
            }
        }
        let before = std::mem::replace(&mut *self.found.write(), found.clone());
        if before != found {
            self.changed.send_modify(|version| *version += 1);
        }
        Ok(())
    }

    /// Returns a receiver that is notified when the result changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Returns whether every kind that the operator creates is served in the required version.
async fn is_served(client: &Client, api: OptionalApi) -> kube::Result<bool> {
    let group = discovery::group(client, api.group()).await?;
    let resources = group.versioned_resources("v1");
    Ok(api
        .kinds()
        .iter()
        .all(|kind| resources.iter().any(|(resource, _)| resource.kind == *kind)))
}
