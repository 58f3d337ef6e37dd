//! Follows changes of users, ACLs and quotas: the directory's snapshot says that there is one. Also
//! reads the secret that the agents share.

use std::sync::Arc;

use streamhouse_core::backoff::BackoffPolicy;
use streamhouse_metadata::MetadataStore;
use tokio::time::{Duration, sleep, timeout};

use super::ClientSecurity;
use crate::directory::ClusterDirectory;

/// Back-off between attempts to read what has changed.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(3));
/// How often the secret of the agents is read.
const SECRET_INTERVAL: Duration = Duration::from_secs(60);
/// How long a change may take to be in force here; afterwards it is answered anyway.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of one read.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until dropped. What was read last stays in force while the metadata store fails.
pub async fn follow_changes(
    security: Arc<ClientSecurity>,
    directory: Arc<ClusterDirectory>,
    metadata: Arc<dyn MetadataStore>,
) {
    let mut changes = directory.subscribe();
    loop {
        let wanted = {
            let view = directory.view();
            (view.version > 0).then_some(view.snapshot.security_version)
        };
        let loaded = security.view().map(|view| view.version());
        if wanted.is_some() && wanted != loaded {
            load(&security, &metadata).await;
        }
        // What was loaded may be newer than the directory, which follows with its next look.
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Reads the secret of the agents, and again from time to time: it is another one after a recovery
/// to a time before it was made. Runs until dropped; does nothing without authentication.
pub async fn follow_agent_secret(security: Arc<ClientSecurity>, metadata: Arc<dyn MetadataStore>) {
    if !security.is_authentication_required() {
        return std::future::pending().await;
    }
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        let problem = match timeout(LOAD_TIMEOUT, metadata.agent_secret()).await {
            Ok(Ok(secret)) => {
                security.set_agent_secret(&secret);
                backoff = RETRY_BACKOFF.start();
                sleep(SECRET_INTERVAL).await;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LOAD_TIMEOUT:?}"),
        };
        tracing::debug!(problem, "the secret of the agents cannot be read");
        sleep(backoff.next_delay(security.entropy.as_ref())).await;
    }
}

/// Waits, for a limited time, until this agent decides by the users, ACLs and quotas that were in
/// the metadata store when this was called.
pub async fn catch_up(security: &ClientSecurity, directory: &ClusterDirectory) {
    let mut versions = security.version.subscribe();
    let caught_up = async {
        // The first may end with a look that had begun before.
        directory.refresh().await;
        let wanted = directory.refresh().await.snapshot.security_version;
        let _ = versions.wait_for(|version| *version >= wanted).await;
    };
    let _ = timeout(CATCH_UP_TIMEOUT, caught_up).await;
}

async fn load(security: &ClientSecurity, metadata: &Arc<dyn MetadataStore>) {
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        let problem = match timeout(LOAD_TIMEOUT, metadata.load_security()).await {
            Ok(Ok(snapshot)) => {
                let (version, users, acls) =
                    (snapshot.version, snapshot.credentials.len(), snapshot.acls.len());
                security.replace(snapshot);
                tracing::info!(version, credentials = users, acls, "users and ACLs are in force");
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LOAD_TIMEOUT:?}"),
        };
        tracing::warn!(
            problem,
            "users and ACLs cannot be read; the former ones stay in force"
        );
        sleep(backoff.next_delay(security.entropy.as_ref())).await;
    }
}
