//! The Rust client, which runs in this process.

use std::{fs, time::Duration};

use anyhow::Context as _;
use streamhouse_client::{Client, ClientConfig, ClientCredentials};
use streamhouse_core::ErrorCode;
use streamhouse_testkit::wait_until;
use tokio::runtime::Runtime;

use super::{agents::AuthenticatedAgent, clients::Credentials, table::AuthenticationCell};

const LIMIT: Duration = Duration::from_secs(60);

/// A client of the library, that asks for the topics.
pub(super) struct RustClientRun {
    runtime: Runtime,
    client: Client,
}

impl RustClientRun {
    pub(super) fn start(
        agent: &AuthenticatedAgent,
        credentials: &Credentials,
    ) -> anyhow::Result<RustClientRun> {
        let mut config = ClientConfig::new(agent.grpc())
            .with_credentials(ClientCredentials::new(&credentials.user, &credentials.password));
        if let Some(ca) = agent.ca() {
            config = config.with_tls_ca_pem(fs::read(ca)?);
        }
        let runtime = Runtime::new().context("no runtime")?;
        let client = {
            let _entered = runtime.enter();
            Client::new(config)?
        };
        Ok(RustClientRun { runtime, client })
    }

    pub(super) fn wait(&mut self, or_accepted: bool) -> anyhow::Result<AuthenticationCell> {
        wait_until("an accepted or refused Rust client", LIMIT, || {
            match self.runtime.block_on(self.client.admin().list_topics(false)) {
                Ok(_) => Ok(or_accepted.then_some(AuthenticationCell::Accepted)),
                Err(error) if error.code() == ErrorCode::SaslAuthenticationFailed => {
                    Ok(Some(AuthenticationCell::Refused))
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}
