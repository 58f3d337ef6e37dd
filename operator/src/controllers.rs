//! What a leader does: the reconciliation of clusters and that of topics, side by side. Called by `run` once a term. Ends when told to,
//! after both have finished what they were at, or as soon as one ends by itself.

use tokio_util::sync::CancellationToken;

use crate::{cluster, context::Context, topic};

/// Runs both until `stop`.
pub async fn run(context: Context, concurrency: u16, stop: CancellationToken) -> anyhow::Result<()> {
    let topics = async {
        topic::run(context.clone(), stop.clone()).await;
        anyhow::ensure!(stop.is_cancelled(), "the watch of topics ended by itself");
        Ok(())
    };
    tokio::try_join!(cluster::run(context.clone(), concurrency, stop.clone()), topics)?;
    Ok(())
}
