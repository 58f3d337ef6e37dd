//! [`GroupJoinWatch`]: watches how `streamhouse consume --group` joins its group. Warns on stderr
//! about what it waits for, and gives up if the coordinator is unreachable for the time-out of a
//! call before the first join.

use std::time::Duration;

use streamhouse_client::{Consumer, CoordinatorOutage, Error, ErrorCode};
use tokio::time::Instant;

use crate::{
    command_error::{CommandError, CommandResult},
    output::OutputFormat,
    warnings::{WARN_AFTER, warn},
};

/// The state of joining a group.
#[derive(Debug)]
pub(super) struct GroupJoinWatch {
    group: String,
    format: OutputFormat,
    /// Time-out of one call to the cluster, including its retries.
    allowed: Duration,
    since: Instant,
    joined: bool,
    warned: bool,
}

impl GroupJoinWatch {
    pub(super) fn new(group: &str, format: OutputFormat, allowed: Duration) -> Self {
        Self {
            group: group.to_owned(),
            format,
            allowed,
            since: Instant::now(),
            joined: false,
            warned: false,
        }
    }

    /// Checks the state after a poll. Prints a warning, or fails if the coordinator is unreachable.
    pub(super) fn check(&mut self, consumer: &Consumer) -> CommandResult {
        let outage = consumer.coordinator_outage();
        let is_member = consumer.generation() >= 0;
        if let Some(warning) = self.next_warning(is_member, outage, self.since.elapsed())? {
            warn(self.format, &warning);
        }
        Ok(())
    }

    fn next_warning(
        &mut self,
        is_member: bool,
        outage: Option<CoordinatorOutage>,
        waited: Duration,
    ) -> CommandResult<Option<String>> {
        if is_member {
            self.joined = true;
        }
        let group = &self.group;
        if let Some(outage) = outage {
            if !self.joined && outage.duration >= self.allowed {
                return Err(CommandError::from(Error::Cluster(outage.cause))
                    .with_context(&format!("joining the group {group}")));
            }
            if outage.duration < WARN_AFTER || self.warned {
                return Ok(None);
            }
            self.warned = true;
            let what = if self.joined {
                "is without its coordinator"
            } else {
                "cannot be joined yet"
            };
            // A separate warning names the agent and the reason.
            let why = match outage.cause.code() {
                ErrorCode::NetworkException => "the agent that coordinates it does not answer",
                _ => outage.cause.message(),
            };
            return Ok(Some(format!("the group {group} {what}: {why}")));
        }
        if self.joined {
            // The next outage is warned about again.
            self.warned = false;
            return Ok(None);
        }
        if waited < WARN_AFTER || self.warned {
            return Ok(None);
        }
        self.warned = true;
        Ok(Some(format!(
            "the group {group} does not admit this consumer yet: it waits for its other members to join again, which may take as long \
             as their maximum time between polls; `streamhouse group describe` shows them"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joining() -> GroupJoinWatch {
        GroupJoinWatch::new("billing", OutputFormat::Table, Duration::from_secs(30))
    }

    fn outage(seconds: u64) -> Option<CoordinatorOutage> {
        let cause = streamhouse_core::Error::new(
            streamhouse_core::ErrorCode::NetworkException,
            "agent a-2 advertises 10.0.0.9:50051, which does not answer (refused)",
        );
        Some(CoordinatorOutage::new(Duration::from_secs(seconds), cause))
    }

    #[test]
    fn an_unreachable_coordinator_is_named_after_seconds_and_final_after_the_time_of_a_call() {
        let mut joining = joining();
        let mut after = |seconds| joining.next_warning(false, outage(seconds), Duration::from_secs(seconds));
        assert_eq!(after(1), Ok(None));
        let warning = after(5).unwrap().unwrap();
        assert!(
            warning.contains("billing cannot be joined yet: the agent"),
            "{warning}"
        );
        assert_eq!(after(6), Ok(None), "once");
        let failure = after(30).unwrap_err().to_string();
        assert!(
            failure.starts_with("joining the group billing: agent a-2 advertises 10.0.0.9:50051"),
            "{failure}"
        );
    }

    #[test]
    fn a_member_waits_for_its_coordinator_however_long_and_says_so_once_an_outage() {
        let mut joining = joining();
        let long = Duration::from_secs(900);
        assert_eq!(joining.next_warning(true, None, long), Ok(None));
        assert!(joining.next_warning(true, outage(100), long).unwrap().is_some());
        assert_eq!(joining.next_warning(false, outage(600), long), Ok(None));
        assert_eq!(joining.next_warning(true, None, long), Ok(None));
        assert!(joining.next_warning(true, outage(5), long).unwrap().is_some());
    }

    #[test]
    fn a_group_that_rebalances_is_waited_for_and_named() {
        let mut joining = joining();
        assert_eq!(
            joining.next_warning(false, None, Duration::from_secs(1)),
            Ok(None)
        );
        let warning = joining.next_warning(false, None, Duration::from_secs(5)).unwrap();
        assert!(warning.unwrap().contains("group describe"));
        assert_eq!(
            joining.next_warning(false, None, Duration::from_secs(500)),
            Ok(None)
        );
    }
}
