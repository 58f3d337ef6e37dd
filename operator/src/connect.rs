//! Clients of the API server. Called by `run` and `diff`. In a pod they use its service account, elsewhere KUBECONFIG or ~/.kube/config.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config, client::ClientBuilder};

use crate::lease::Fence;

const CONNECT: Duration = Duration::from_secs(10);
/// For a request to be written.
const WRITE: Duration = Duration::from_secs(30);
/// For an answer to go on. Longer than a watch may be silent: the API server ends each watch within 290 s.
const READ: Duration = Duration::from_secs(295);

/// How to reach the API server. Without it nothing can be done, and only whoever started us can help.
pub async fn config() -> anyhow::Result<Config> {
    let mut config = Config::infer()
        .await
        .context("no way to the API server: run in a pod with a service account, or set KUBECONFIG")?;
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    Ok(config)
}

/// A client that sends each request once. Who calls decides whether and when to try again.
pub fn client(mut config: Config) -> kube::Result<Client> {
    config.default_retry = false;
    Client::try_from(config)
}

/// A client whose writes go out within a term only.
pub fn fenced_client(mut config: Config, fence: &Fence) -> kube::Result<Client> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&fence.layer())
        .build())
}
