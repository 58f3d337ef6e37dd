//! Marks the bucket with the metadata store's number while records come in, so that an older copy of the store is known by its
//! lower number (INV-B1). What happened since the last mark is what a copy can be behind unnoticed: a round's worth.

use super::JobError;
use crate::{
    node::{Life, Node},
    ownership,
};

/// What has happened to the logs that a life leads; two that are equal mean that nothing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Activity {
    incarnation: i64,
    version: u64,
    offsets: i64,
}

impl Activity {
    fn of(node: &Node, life: &Life) -> Self {
        let sum = |sum: i64, offset: i64| sum.wrapping_add(offset);
        let offsets = life.held.all().into_iter().fold(0, |total, partition| {
            [
                partition.log_start(),
                partition.rolled(),
                partition.high_watermark(),
            ]
            .into_iter()
            .fold(total, sum)
        });
        Self {
            incarnation: life.incarnation.0,
            version: node.directory.view().version,
            offsets,
        }
    }
}

/// Remembers up to where the bucket is marked.
#[derive(Debug, Default)]
pub struct Marker {
    marked: Option<Activity>,
}

impl Marker {
    /// One round: marks the bucket if something happened since the last mark. A store that turns out to be an older copy ends
    /// the life.
    pub async fn run(&mut self, node: &Node, life: &Life) -> Result<(), JobError> {
        let now = Activity::of(node, life);
        if self.marked == Some(now) {
            return Ok(());
        }
        match ownership::advance(node).await {
            Ok(()) => {
                self.marked = Some(now);
                Ok(())
            }
            Err(error) if error.is_refusal() => {
                // Nobody has to wait for the lease of a life that ends now.
                if let Err(unsealed) = node.metadata.seal(life.incarnation).await {
                    tracing::warn!(%unsealed, "this life could not be sealed; it ends when its lease expires");
                }
                let outcome = ownership::settle(node, Err(error)).map_err(JobError::Foreign);
                life.over.cancel();
                outcome
            }
            Err(error) => Err(JobError::Foreign(error.to_string())),
        }
    }
}
