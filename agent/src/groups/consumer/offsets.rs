//! Which members may commit and fetch offsets: those in their current epoch. A commit may also be
//! of an earlier epoch, if its partitions have been the member's since then.

use streamhouse_core::Error;

use super::{
    ConsumerGroup,
    errors::{stale_epoch, stale_partition, unknown_member},
    partitions::PartitionKey,
};

impl ConsumerGroup {
    /// Checks whether a member may commit offsets of these partitions (`None`: one that does not
    /// exist), and returns the group epoch that the store must check again: `None` for a consumer
    /// without membership, which may commit while the group has no members.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or STALE_MEMBER_EPOCH.
    pub fn check_commit(
        &self,
        member_id: &str,
        epoch: i32,
        partitions: impl IntoIterator<Item = Option<PartitionKey>>,
    ) -> Result<Option<i32>, Error> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(None);
        }
        let entry = self
            .members
            .get(member_id)
            .ok_or_else(|| unknown_member(member_id))?;
        let member = &entry.member;
        if epoch > member.epoch {
            return Err(stale_epoch(epoch, member.epoch));
        }
        let has_since = |partition: &PartitionKey| {
            let assigned = member
                .assigned
                .get(partition)
                .or_else(|| member.revoking.get(partition));
            assigned.is_some_and(|assigned| *assigned <= epoch)
        };
        let covered = |partition: Option<PartitionKey>| partition.as_ref().is_some_and(has_since);
        if epoch < member.epoch && !partitions.into_iter().all(covered) {
            return Err(stale_partition(epoch));
        }
        Ok(Some(self.epoch))
    }

    /// Checks whether a member may fetch the group's offsets.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or STALE_MEMBER_EPOCH.
    pub fn check_fetch(&self, member_id: &str, epoch: i32) -> Result<(), Error> {
        let entry = self
            .members
            .get(member_id)
            .ok_or_else(|| unknown_member(member_id))?;
        if epoch == entry.member.epoch {
            Ok(())
        } else {
            Err(stale_epoch(epoch, entry.member.epoch))
        }
    }
}
