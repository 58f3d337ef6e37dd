//! Manual assignments of partitions to brokers. They are checked as Kafka checks them and not kept:
//! agents share the partitions among them.

use std::collections::BTreeSet;

use streamhouse_core::{Error, ErrorCode};

use super::{brokers, request::RequestContext};

/// Checks the brokers of each of `partitions` new partitions.
///
/// # Errors
///
/// INVALID_REPLICA_ASSIGNMENT if their number differs, or if a partition has no broker, one twice
/// or one that does not exist.
pub(super) fn check<'a>(
    context: &RequestContext,
    partitions: usize,
    assignments: impl ExactSizeIterator<Item = &'a [i32]>,
) -> Result<(), Error> {
    if assignments.len() != partitions {
        let given = assignments.len();
        return Err(invalid(format!(
            "{partitions} new partitions are assigned to brokers {given} times"
        )));
    }
    let client = &context.client;
    let known = brokers::all(&client.deps.directory.view(), &client.addresses);
    let known: BTreeSet<i32> = known.iter().map(|broker| broker.node_id).collect();
    for brokers in assignments {
        let mut seen = BTreeSet::new();
        if brokers.is_empty() {
            return Err(invalid("a partition is assigned to no broker".to_owned()));
        }
        for broker in brokers {
            if !known.contains(broker) {
                return Err(invalid(format!("there is no broker {broker}")));
            }
            if !seen.insert(broker) {
                return Err(invalid(format!(
                    "a partition is assigned to broker {broker} twice"
                )));
            }
        }
    }
    Ok(())
}

/// Returns the error for an assignment.
pub(super) fn invalid(problem: String) -> Error {
    Error::new(ErrorCode::InvalidReplicaAssignment, problem)
}
