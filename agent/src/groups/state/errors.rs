//! Errors of the state machine. Each message says what the client does next.

use streamhouse_core::{Error, ErrorCode};

pub(super) fn unknown_member() -> Error {
    Error::new(
        ErrorCode::UnknownMemberId,
        "the group does not know this member; join again without a member id",
    )
}

pub(super) fn fenced_instance() -> Error {
    Error::new(
        ErrorCode::FencedInstanceId,
        "another member joined with the same group instance id; give each running member its own",
    )
}

pub(super) fn illegal_generation(given: i32, current: i32) -> Error {
    Error::new(
        ErrorCode::IllegalGeneration,
        format!("generation {given} is not the group's generation {current}; join again"),
    )
}

pub(super) fn rebalance_in_progress() -> Error {
    Error::new(
        ErrorCode::RebalanceInProgress,
        "the group is rebalancing; join again",
    )
}

pub(super) fn group_deleted() -> Error {
    Error::new(
        ErrorCode::CoordinatorNotAvailable,
        "the group was just deleted; try again",
    )
}

pub(super) fn inconsistent_protocol() -> Error {
    Error::new(
        ErrorCode::InconsistentGroupProtocol,
        "the group's members use another protocol type, or share no assignor with this member; offer one that they support",
    )
}

pub(super) fn group_full(what: &str, limit: usize) -> Error {
    Error::new(
        ErrorCode::GroupMaxSizeReached,
        format!("the group has reached its limit of {limit} {what}"),
    )
}
