//! The controllers of a leader: clusters, topics and users, side by side. Called by `run` once per
//! term. Returns after all have finished their running reconciliations, or as soon as one ends by
//! itself.

use tokio_util::sync::CancellationToken;

use crate::{cluster, context::OperatorContext, topic, user};

/// Runs all controllers until `stop` is cancelled.
///
/// # Errors
///
/// Returns an error if a controller ends by itself.
pub async fn run(context: OperatorContext, concurrency: u16, stop: CancellationToken) -> anyhow::Result<()> {
    let topics = async {
        topic::run(context.clone(), stop.clone()).await;
        anyhow::ensure!(stop.is_cancelled(), "the watch of Topics has ended unexpectedly");
        Ok(())
    };
    let users = async {
        user::run(context.clone(), stop.clone()).await;
        anyhow::ensure!(stop.is_cancelled(), "the watch of Users has ended unexpectedly");
        Ok(())
    };
    tokio::try_join!(
        cluster::run(context.clone(), concurrency, stop.clone()),
        topics,
        users
    )?;
    Ok(())
}
