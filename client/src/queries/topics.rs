//! Lists of topics.

use streamhouse_core::protocol::v1;

use crate::{Client, connection, error::Result, retry::Deadline};

/// Returns all topics, sorted by name; internal topics only if `include_internal` is true.
pub(crate) async fn list_topics(
    client: &Client,
    include_internal: bool,
    deadline: Deadline,
) -> Result<Vec<v1::TopicListing>> {
    let (answer, _) = client
        .call_any_agent("listing topics", deadline, |channel| async move {
            connection::admin_client(channel)
                .list_topics(v1::ListTopicsRequest { include_internal })
                .await
        })
        .await?;
    let mut topics = answer.topics;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}
