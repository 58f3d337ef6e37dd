//! Creates clients of the API server. Called by `run` and `diff`. In a pod they use the service
//! account, elsewhere KUBECONFIG or ~/.kube/config.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config, client::ClientBuilder};

use crate::lease::TermFence;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for writing a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for reading a response. Longer than a watch may be silent: the API server ends each
/// watch within 290 s.
const READ_TIMEOUT: Duration = Duration::from_secs(295);

/// Infers how to reach the API server from the environment.
///
/// # Errors
///
/// Returns an error if the process neither runs in a pod nor has a kubeconfig.
pub async fn infer_config() -> anyhow::Result<Config> {
    let mut config = Config::infer().await.context(
        "no configuration of the API server found: run in a pod with a service account, or set KUBECONFIG",
    )?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(config)
}

/// Creates a client that sends each request once; retries are the caller's decision.
///
/// # Errors
///
/// Returns an error if the configuration is invalid.
pub fn new_client(mut config: Config) -> kube::Result<Client> {
    config.default_retry = false;
    Client::try_from(config)
}

/// Creates a client that sends write requests only while `fence` is open.
///
/// # Errors
///
/// Returns an error if the configuration is invalid.
pub fn new_fenced_client(mut config: Config, fence: &TermFence) -> kube::Result<Client> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&fence.layer())
        .build())
}
