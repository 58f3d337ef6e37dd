//! What the API server offers, looked at again and again: whether it answers at all, whether our custom resource definitions are served,
//! and which optional APIs there are. Called by `run`. A definition that is missing is no reason to end: it may come at any time, and a
//! crash loop would only make everything slower. Needs no rights: whoever may log in may ask what is served.

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

/// What must be served, by the resources' plural names.
const NEEDED: &[&str] = &["streamhouseclusters", "topics"];
/// Between two looks while something is missing.
const SOON: Duration = Duration::from_secs(2);
/// Between two looks while all is well.
const LATER: Duration = Duration::from_secs(15);
/// Between two looks for optional APIs.
const OPTIONAL: Duration = Duration::from_secs(60);
/// For one look.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks around.
#[derive(Debug)]
pub struct Surroundings {
    apis: Arc<Apis>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    complete: watch::Sender<bool>,
}

impl Surroundings {
    /// Nothing has been looked at.
    pub fn new(apis: Arc<Apis>, health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self {
            apis,
            health,
            metrics,
            complete: watch::channel(false).0,
        }
    }

    /// Whether the definitions were served at the last look, and the optional APIs were looked for.
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// Looks for ever.
    pub async fn watch(&self, client: &Client) {
        let mut looked: Option<Instant> = None;
        loop {
            let complete = self.look(client).await;
            if complete && looked.is_none_or(|at| at.elapsed() >= OPTIONAL) {
                match timeout(PATIENCE, self.apis.look(client)).await {
                    Ok(Ok(())) => looked = Some(Instant::now()),
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "cannot find out which optional APIs there are; trying again")
                    }
                    Err(_) => {
                        tracing::warn!("no answer about optional APIs within {PATIENCE:?}; trying again")
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

    /// Whether the API server serves what the operator needs.
    async fn look(&self, client: &Client) -> bool {
        let version = format!("{GROUP}/{VERSION}");
        let served = match timeout(PATIENCE, client.list_api_group_resources(&version)).await {
            Ok(Ok(served)) => served
                .resources
                .into_iter()
                .map(|resource| resource.name)
                .collect(),
            // It knows no such group.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Vec::new(),
            Ok(Err(error)) => {
                self.health.missing(
                    Part::ApiServer,
                    format!("the API server cannot be asked: {error}"),
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

/// The names of the definitions that are needed and not served.
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
