//! Which optional APIs the cluster has: the Prometheus operator's and cert-manager's. Looked at when the operator starts and again and
//! again, since they may be installed at any time. Absent is a condition of the resources that want them, not an error.

use std::collections::BTreeSet;

use kube::{Client, discovery};
use parking_lot::RwLock;
use tokio::sync::watch;

/// An API that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptionalApi {
    /// ServiceMonitor and PrometheusRule.
    Monitoring,
    /// Certificate.
    CertManager,
}

impl OptionalApi {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Monitoring, Self::CertManager];

    /// Its group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Monitoring => "monitoring.coreos.com",
            Self::CertManager => "cert-manager.io",
        }
    }

    /// The kinds that we make of it.
    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Monitoring => &["ServiceMonitor", "PrometheusRule"],
            Self::CertManager => &["Certificate"],
        }
    }
}

/// What was found last.
#[derive(Debug)]
pub struct Apis {
    found: RwLock<BTreeSet<OptionalApi>>,
    changed: watch::Sender<u64>,
}

impl Default for Apis {
    fn default() -> Self {
        Self::with(&[])
    }
}

impl Apis {
    /// As if these had been found.
    pub fn with(found: &[OptionalApi]) -> Self {
        Self {
            found: RwLock::new(found.iter().copied().collect()),
            changed: watch::channel(0).0,
        }
    }

    /// Whether the API was there when last looked for.
    pub fn has(&self, api: OptionalApi) -> bool {
        self.found.read().contains(&api)
    }

    /// Looks for all of them. An API server that does not answer leaves what was known.
    pub async fn look(&self, client: &Client) -> kube::Result<()> {
        let groups = client.list_api_groups().await?;
        let mut found = BTreeSet::new();
        for api in OptionalApi::ALL {
            if groups.groups.iter().any(|group| group.name == api.group()) && served(client, *api).await? {
                found.insert(*api);
            }
        }
        let before = std::mem::replace(&mut *self.found.write(), found.clone());
        if before != found {
            self.changed.send_modify(|version| *version += 1);
        }
        Ok(())
    }

    /// Resolves when what was found has changed since the receiver looked.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Whether every kind we make is served in the version we make.
async fn served(client: &Client, api: OptionalApi) -> kube::Result<bool> {
    let group = discovery::group(client, api.group()).await?;
    let resources = group.versioned_resources("v1");
    Ok(api
        .kinds()
        .iter()
        .all(|kind| resources.iter().any(|(resource, _)| resource.kind == *kind)))
}
