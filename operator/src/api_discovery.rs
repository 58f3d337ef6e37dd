//! Periodic discovery of the API server: whether it answers, whether the custom resource
//! definitions are served, and which optional APIs are installed. Called by `run`. A missing
//! definition does not end the process: it may be installed at any time, and a crash loop would
//! only delay the start. Needs no RBAC rules: every authenticated client may use API discovery.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    apis::OptionalApis,
    crd::{API_GROUP, API_VERSION},
    health::{HealthComponent, HealthState},
    metrics::OperatorMetrics,
};

/// Resources that must be served, by plural name.
const REQUIRED_RESOURCES: &[&str] = &["streamhouseclusters", "topics", "users"];
/// Interval while something is missing.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Interval while everything is served.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Interval of the discovery of optional APIs.
const OPTIONAL_API_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Discovers what the API server serves.
#[derive(Debug)]
pub struct ApiDiscovery {
    apis: Arc<OptionalApis>,
    health: Arc<HealthState>,
    metrics: Arc<OperatorMetrics>,
    ready: watch::Sender<bool>,
}

impl ApiDiscovery {
    /// Creates a discovery that has not run yet.
    pub fn new(apis: Arc<OptionalApis>, health: Arc<HealthState>, metrics: Arc<OperatorMetrics>) -> Self {
        Self {
            apis,
            health,
            metrics,
            ready: watch::channel(false).0,
        }
    }

    /// Returns a receiver of whether the definitions are served and the optional APIs have been
    /// discovered.
    pub fn subscribe_readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Runs the discovery periodically; never returns.
    pub async fn run(&self, client: &Client) {
        let mut looked: Option<Instant> = None;
        loop {
            let complete = self.check_definitions(client).await;
            if complete && looked.is_none_or(|at| at.elapsed() >= OPTIONAL_API_INTERVAL) {
                match timeout(REQUEST_TIMEOUT, self.apis.discover(client)).await {
                    Ok(Ok(())) => looked = Some(Instant::now()),
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "cannot discover the optional APIs; retrying")
                    }
                    Err(_) => {
                        tracing::warn!(
                            "the discovery of optional APIs timed out after {REQUEST_TIMEOUT:?}; retrying"
                        )
                    }
                }
            }
            self.ready.send_if_modified(|was| {
                let is = complete && looked.is_some();
                std::mem::replace(was, is) != is
            });
            sleep(if complete && looked.is_some() {
                CHECK_INTERVAL
            } else {
                RETRY_INTERVAL
            })
            .await;
        }
    }

    /// Checks whether the API server serves the required resources.
    async fn check_definitions(&self, client: &Client) -> bool {
        let version = format!("{API_GROUP}/{API_VERSION}");
        let served = match timeout(REQUEST_TIMEOUT, client.list_api_group_resources(&version)).await {
            Ok(Ok(served)) => served
                .resources
                .into_iter()
                .map(|resource| resource.name)
                .collect(),
            // The group is not served.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
            Ok(Err(error)) => {
                self.health.mark_unready(
                    HealthComponent::ApiServer,
                    format!("cannot query the API server: {error}"),
                );
                return false;
            }
            Err(_) => {
                self.health.mark_unready(
                    HealthComponent::ApiServer,
                    format!("the API server did not answer within {REQUEST_TIMEOUT:?}"),
                );
                return false;
            }
        };
        self.health.mark_healthy(HealthComponent::ApiServer);
        let missing = missing_definitions(&served);
        self.metrics.crd_missing.set(i64::from(!missing.is_empty()));
        if missing.is_empty() {
            self.health.mark_healthy(HealthComponent::Definitions);
            return true;
        }
        let why = format!(
            "{} not installed in version {API_VERSION}: install the chart with crds.install=true, or run: \
            streamhouse-operator crds | kubectl apply --server-side -f -",
            missing.join(" and ")
        );
        self.health.mark_unready(HealthComponent::Definitions, why);
        false
    }
}

/// Returns the required definitions that are not served.
fn missing_definitions(served: &[String]) -> Vec<String> {
    let is_served = |name: &str| served.iter().any(|served| served == name);
    REQUIRED_RESOURCES
        .iter()
        .filter(|name| !is_served(name))
        .map(|name| format!("{name}.{API_GROUP}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use kube::Resource;

    use super::*;
    use crate::crd::{StreamHouseCluster, Topic, User};

    #[test]
    fn all_kinds_are_needed() {
        let plurals = [
            StreamHouseCluster::plural(&()),
            Topic::plural(&()),
            User::plural(&()),
        ];
        assert_eq!(plurals.map(|name| name.into_owned()), REQUIRED_RESOURCES);
        assert_eq!(
            missing_definitions(&[]),
            [
                "streamhouseclusters.streamhouse.io",
                "topics.streamhouse.io",
                "users.streamhouse.io"
            ]
        );
        let served = ["topics", "topics/status", "users"].map(ToOwned::to_owned);
        assert_eq!(
            missing_definitions(&served),
            ["streamhouseclusters.streamhouse.io"]
        );
        assert!(
            missing_definitions(
                &REQUIRED_RESOURCES
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>()
            )
            .is_empty()
        );
    }
}
