//! Errors of the state machine. Each message says what the client does next.

use streamhouse_core::{Error, ErrorCode};

pub(super) fn unknown_member(member_id: &str) -> Error {
    let message = format!("member {member_id:?} is not a member of the group; join again with epoch 0");
    Error::new(ErrorCode::UnknownMemberId, message)
}

pub(super) fn unknown_instance(instance: &str) -> Error {
    let message = format!("instance id {instance:?} is unknown; join again with epoch 0");
    Error::new(ErrorCode::UnknownMemberId, message)
}

pub(super) fn fenced_epoch(received: i32, current: i32) -> Error {
    let message = format!(
        "the member's epoch {received} is not the epoch {current} that the coordinator knows; abandon all partitions and \
         join again with epoch 0"
    );
    Error::new(ErrorCode::FencedMemberEpoch, message)
}

pub(super) fn stale_epoch(received: i32, current: i32) -> Error {
    let message = format!(
        "the member's epoch {received} is not its current epoch {current}; take the epoch of the last heartbeat"
    );
    Error::new(ErrorCode::StaleMemberEpoch, message)
}

pub(super) fn stale_partition(received: i32) -> Error {
    let message =
        format!("a partition of the commit is not assigned to the member since epoch {received} or before");
    Error::new(ErrorCode::StaleMemberEpoch, message)
}

pub(super) fn fenced_instance(instance: &str) -> Error {
    let message =
        format!("another member has the instance id {instance:?}; give each running member its own");
    Error::new(ErrorCode::FencedInstanceId, message)
}

pub(super) fn unreleased_instance(instance: &str) -> Error {
    let message = format!("the instance id {instance:?} is still used by a member; wait until it has left");
    Error::new(ErrorCode::UnreleasedInstanceId, message)
}

pub(super) fn member_id_taken(member_id: &str) -> Error {
    let message = format!("the member id {member_id:?} belongs to another member; use another one");
    Error::new(ErrorCode::InvalidRequest, message)
}

pub(super) fn group_full(what: &str, limit: usize) -> Error {
    let message = format!("the group has reached its limit of {limit} {what}");
    Error::new(ErrorCode::GroupMaxSizeReached, message)
}

pub(super) fn invalid_pattern(pattern: &str, problem: &str) -> Error {
    let message = format!("SubscribedTopicRegex {pattern:?} is not a valid regular expression: {problem}");
    Error::new(ErrorCode::InvalidRegularExpression, message)
}
