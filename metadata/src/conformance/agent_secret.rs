//! The secret by which agents prove to each other that they are agents.

use super::{fixture::SharedStore, races::run_concurrently, security::with_versions};
use crate::AgentSecret;

pub async fn agents_share_one_secret(store: &SharedStore) {
    let secrets = run_concurrently(4, |_, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            store.agent_secret().await.unwrap()
        }
    })
    .await;
    let secret = with_versions(store, 0, store.agent_secret()).await.unwrap();
    assert!(secrets.iter().all(|other| *other == secret));
    let mut bytes = secret.as_bytes().to_vec();
    assert_eq!(bytes.len(), AgentSecret::BYTES);
    bytes.sort_unstable();
    bytes.dedup();
    assert!(bytes.len() > 16, "it is random");
}
