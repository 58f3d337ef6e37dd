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
    apis::Apis,
    crd::{GROUP, VERSION},
    health::{Health, Part},
    metrics::Metrics,
};

/// Resources that must be served, by plural name.
const NEEDED: &[&str] = &["streamhouseclusters", "topics"];
/// Interval while something is missing.
const SOON: Duration = Duration::from_secs(2);
/// Interval while everything is served.
const LATER: Duration = Duration::from_secs(15);
/// Interval of the discovery of optional APIs.
const OPTIONAL: Duration = Duration::from_secs(60);
/// Timeout of one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Discovers what the API server serves.
#[derive(Debug)]
pub struct Surroundings {
    apis: Arc<Apis>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    complete: watch::Sender<bool>,
}

impl Surroundings {
    /// Creates a discovery that has not run yet.
    pub fn new(apis: Arc<Apis>, health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self {
            apis,
            health,
            metrics,
            complete: watch::channel(false).0,
        }
    }

    /// Returns a receiver of whether the definitions are served and the optional APIs have been
    /// discovered.
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// Runs the discovery periodically; never returns.
    pub async fn watch(&self, client: &Client) {
        let mut looked: Option<Instant> = None;
        loop {
            let complete = self.look(client).await;
            if complete && looked.is_none_or(|at| at.elapsed() >= OPTIONAL) {
                match timeout(PATIENCE, self.apis.look(client)).await {
                    Ok(Ok(())) => looked = Some(Instant::now()),
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "cannot discover the optional APIs; retrying")
                    }
                    Err(_) => {
                        tracing::warn!("the discovery of optional APIs timed out after {PATIENCE:?}; retrying")
                    }
                }
            }
            self.complete.send_if_modified(|was| {
                let is = complete && looked.is_some();
                std::mem::replace(was, is) != is
            });
            sleep(if complete && looked.is_some() { LATER } else { SOON }).await;
        }
    }

    /// Checks whether the API server serves the required resources.
    async fn look(&self, client: &Client) -> bool {
        let version = format!("{GROUP}/{VERSION}");
        let served = match timeout(PATIENCE, client.list_api_group_resources(&version)).await {
            Ok(Ok(served)) => served
                .resources
                .into_iter()
                .map(|resource| resource.name)
                .collect(),
            // The group is not served.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
            Ok(Err(error)) => {
                self.health.missing(
                    Part::ApiServer,
                    format!("cannot query the API server: {error}"),
                );
                return false;
            }
            Err(_) => {
                self.health.missing(
                    Part::ApiServer,
                    format!("the API server did not answer within {PATIENCE:?}"),
                );
                return false;
            }
        };
        self.health.fine(Part::ApiServer);
        let missing = missing(&served);
        self.metrics.crd_missing.set(i64::from(!missing.is_empty()));
        if missing.is_empty() {
            self.health.fine(Part::Definitions);
            return true;
        }
        let why = format!(
            "{} not installed in version {VERSION}: install the chart with crds.install=true, or run: \
            streamhouse-operator crds | kubectl apply --server-side -f -",
            missing.join(" and ")
        );
        self.health.missing(Part::Definitions, why);
        false
    }
}

/// Returns the required definitions that are not served.
fn missing(served: &[String]) -> Vec<String> {
    let is_served = |name: &str| served.iter().any(|served| served == name);
    NEEDED
        .iter()
        .filter(|name| !is_served(name))
        .map(|name| format!("{name}.{GROUP}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use kube::Resource;

    use super::*;
    use crate::crd::{StreamHouseCluster, Topic};

    #[test]
    fn both_kinds_are_needed() {
        let plurals = [StreamHouseCluster::plural(&()), Topic::plural(&())];
        assert_eq!(plurals.map(|name| name.into_owned()), NEEDED);
        assert_eq!(
            missing(&[]),
            ["streamhouseclusters.streamhouse.io", "topics.streamhouse.io"]
        );
        let served = ["topics", "topics/status"].map(ToOwned::to_owned);
        assert_eq!(missing(&served), ["streamhouseclusters.streamhouse.io"]);
        assert!(missing(&NEEDED.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).is_empty());
    }
}
