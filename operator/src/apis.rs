//! Discovers optional APIs: those of the Prometheus operator, of cert-manager and the Gateway API;
//! and whether the API server is OpenShift's. Checked at the start and periodically, since they may
//! be installed at any time. A missing API is a condition of the resources that need it, not an
//! error.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::ValueEnum;
use kube::{Client, discovery};
use parking_lot::RwLock;
use tokio::sync::watch;

/// API group of OpenShift's security context constraints.
const OPENSHIFT_GROUP: &str = "security.openshift.io";

/// When pods are rendered for OpenShift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OpenShiftMode {
    /// If the API server serves security.openshift.io
    #[default]
    Auto,
    /// Always
    True,
    /// Never
    False,
}

/// An API that may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptionalApi {
    /// ServiceMonitor and PrometheusRule.
    Monitoring,
    /// Certificate.
    CertManager,
    /// GRPCRoute of the Gateway API.
    GrpcRoute,
    /// TLSRoute of the Gateway API.
    TlsRoute,
}

impl OptionalApi {
    /// All optional APIs.
    pub const ALL: &'static [Self] = &[
        Self::Monitoring,
        Self::CertManager,
        Self::GrpcRoute,
        Self::TlsRoute,
    ];

    /// Returns the API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Monitoring => "monitoring.coreos.com",
            Self::CertManager => "cert-manager.io",
            Self::GrpcRoute | Self::TlsRoute => "gateway.networking.k8s.io",
        }
    }

    /// Returns the kinds that the operator creates.
    pub fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Monitoring => &["ServiceMonitor", "PrometheusRule"],
            Self::CertManager => &["Certificate"],
            Self::GrpcRoute => &["GRPCRoute"],
            Self::TlsRoute => &["TLSRoute"],
        }
    }

    /// Returns the versions that the operator can use, the preferred first. They have the same
    /// fields.
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            // Each release of the Gateway API serves other versions of this kind.
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            _ => &["v1"],
        }
    }
}

/// The result of the last discovery.
#[derive(Debug)]
pub struct OptionalApis {
    found: RwLock<BTreeMap<OptionalApi, &'static str>>,
    openshift: OpenShiftMode,
    openshift_found: AtomicBool,
    changed: watch::Sender<u64>,
}

impl Default for OptionalApis {
    fn default() -> Self {
        Self::with_found(&[])
    }
}

impl OptionalApis {
    /// Creates the state in which exactly these APIs are installed, in the preferred version.
    pub fn with_found(found: &[OptionalApi]) -> Self {
        let preferred = |api: &OptionalApi| Some((*api, *api.versions().first()?));
        Self {
            found: RwLock::new(found.iter().filter_map(preferred).collect()),
            openshift: OpenShiftMode::Auto,
            openshift_found: AtomicBool::new(false),
            changed: watch::channel(0).0,
        }
    }

    /// Sets when the Kubernetes cluster counts as an OpenShift cluster.
    #[must_use]
    pub fn with_openshift(self, openshift: OpenShiftMode) -> Self {
        Self { openshift, ..self }
    }

    /// Returns whether pods are rendered for OpenShift. Stays true once the API was found, so that
    /// an API server that is starting restarts no agent.
    pub fn is_openshift(&self) -> bool {
        match self.openshift {
            OpenShiftMode::Auto => self.openshift_found.load(Ordering::Relaxed),
            OpenShiftMode::True => true,
            OpenShiftMode::False => false,
        }
    }

    /// Returns whether the API was installed at the last discovery.
    pub fn has(&self, api: OptionalApi) -> bool {
        self.version(api).is_some()
    }

    /// Returns the version in which the API was served at the last discovery.
    pub fn version(&self, api: OptionalApi) -> Option<&'static str> {
        self.found.read().get(&api).copied()
    }

    /// Discovers all optional APIs. The previous result is kept if the API server does not answer.
    ///
    /// # Errors
    ///
    /// Returns the error of the API server.
    pub async fn discover(&self, client: &Client) -> kube::Result<()> {
        let groups = client.list_api_groups().await?;
        if groups.groups.iter().any(|group| group.name == OPENSHIFT_GROUP) {
            self.openshift_found.store(true, Ordering::Relaxed);
        }
        let mut found = BTreeMap::new();
        for api in OptionalApi::ALL {
            if groups.groups.iter().any(|group| group.name == api.group())
                && let Some(version) = served_version(client, *api).await?
            {
                found.insert(*api, version);
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

/// Returns the first usable version in which every kind that the operator creates is served.
async fn served_version(client: &Client, api: OptionalApi) -> kube::Result<Option<&'static str>> {
    let group = discovery::group(client, api.group()).await?;
    let is_served = |version: &&&'static str| {
        let resources = group.versioned_resources(version);
        api.kinds()
            .iter()
            .all(|kind| resources.iter().any(|(resource, _)| resource.kind == *kind))
    };
    Ok(api.versions().iter().find(is_served).copied())
}
