//! Limits of consumer groups, and the checks of requests against them. Called by the coordinator
//! before it touches any state, so that nothing a client sends can grow without bound.

use std::{collections::HashSet, sync::Arc, time::Duration};

use streamhouse_core::{Error, ErrorCode, protocol::v1};

use super::{
    consumer::{ConsumerGroupRules, MemberHeartbeat},
    state::{GroupRules, JoinRequest, MemberProtocol},
};

/// Maximum length of group ids, instance ids, client ids and protocol names in bytes.
const MAX_NAME_LEN: usize = 255;
/// Maximum number of protocols that one member may offer.
const MAX_PROTOCOLS: usize = 32;
/// Maximum rebalance timeout.
const MAX_REBALANCE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Limits of the groups of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Maximum number of members of one group.
    pub max_members: usize,
    /// Maximum bytes of one member's metadata.
    pub max_member_bytes: usize,
    /// Maximum bytes of all members' metadata in one group, and of their assignments.
    pub max_group_bytes: usize,
    /// Maximum bytes of all groups of this agent; joins are refused above it.
    pub max_total_bytes: usize,
    /// Maximum number of offsets in one request.
    pub max_offsets: usize,
    /// Maximum bytes of the metadata of one committed offset.
    pub max_offset_metadata: usize,
    /// Minimum session timeout.
    pub min_session_timeout: Duration,
    /// Maximum session timeout.
    pub max_session_timeout: Duration,
    /// How long a new group waits for further members after the first one.
    pub initial_rebalance_delay: Duration,
    /// Session timeout of members of the consumer protocol.
    pub consumer_session_timeout: Duration,
    /// How often members of the consumer protocol send heartbeats.
    pub consumer_heartbeat_interval: Duration,
    /// Minimum time between two target assignments of a group of the consumer protocol.
    pub consumer_assignment_interval: Duration,
    /// Minimum time between two searches for topics that match regular expressions.
    pub consumer_pattern_interval: Duration,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self {
            max_members: 2_000,
            max_member_bytes: 256 << 10,
            max_group_bytes: 8 << 20,
            max_total_bytes: 128 << 20,
            max_offsets: 20_000,
            max_offset_metadata: 4_096,
            min_session_timeout: Duration::from_secs(6),
            max_session_timeout: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::from_millis(500),
            consumer_session_timeout: Duration::from_secs(45),
            consumer_heartbeat_interval: Duration::from_secs(5),
            consumer_assignment_interval: Duration::from_secs(1),
            consumer_pattern_interval: Duration::from_secs(10),
        }
    }
}

impl GroupLimits {
    /// Returns the limits for development mode if `dev`, otherwise the default ones.
    pub fn for_mode(dev: bool) -> Self {
        if dev { Self::dev() } else { Self::default() }
    }

    /// Limits for development mode: groups start at once, and tests can use short session timeouts.
    pub fn dev() -> Self {
        Self {
            min_session_timeout: Duration::from_millis(100),
            initial_rebalance_delay: Duration::from_millis(50),
            consumer_session_timeout: Duration::from_secs(6),
            consumer_heartbeat_interval: Duration::from_millis(500),
            consumer_assignment_interval: Duration::ZERO,
            consumer_pattern_interval: Duration::from_secs(1),
            ..Self::default()
        }
    }

    pub(super) fn rules(&self) -> GroupRules {
        GroupRules {
            max_members: self.max_members,
            max_bytes: self.max_group_bytes,
            initial_delay_ms: millis(self.initial_rebalance_delay),
        }
    }

    pub(super) fn consumer_rules(&self) -> ConsumerGroupRules {
        let heartbeat = self.consumer_heartbeat_interval.as_millis();
        ConsumerGroupRules {
            max_members: self.max_members,
            max_bytes: self.max_group_bytes,
            session_ms: millis(self.consumer_session_timeout),
            heartbeat_ms: i32::try_from(heartbeat).unwrap_or(i32::MAX),
            assignment_interval_ms: millis(self.consumer_assignment_interval),
            pattern_interval_ms: millis(self.consumer_pattern_interval),
        }
    }

    /// Validates a JoinGroup request.
    ///
    /// # Errors
    /// The error code of the first violated limit.
    pub(super) fn parse_join(
        &self,
        request: v1::JoinGroupRequest,
        client_host: &str,
    ) -> Result<JoinRequest, Error> {
        check_group_id(&request.group_id)?;
        let rebalance = rebalance_timeout(&request);
        let protocols = self.check_protocols(request.protocols)?;
        if request.protocol_type.is_empty() || protocols.is_empty() {
            return Err(Error::new(
                ErrorCode::InconsistentGroupProtocol,
                "a member must name a protocol type and at least one assignor",
            ));
        }
        let session = Duration::from_millis(request.session_timeout_ms.into());
        if session < self.min_session_timeout || session > self.max_session_timeout {
            let (min, max) = (self.min_session_timeout, self.max_session_timeout);
            let message = format!("the session timeout of {session:?} is not between {min:?} and {max:?}");
            return Err(Error::new(ErrorCode::InvalidSessionTimeout, message));
        }
        Ok(JoinRequest {
            member_id: request.member_id,
            instance: parse_instance_id(&request.group_instance_id)?.map(Arc::from),
            client_id: truncate_name(&request.client_id).into(),
            client_host: truncate_name(client_host).into(),
            protocol_type: check_name("the protocol type", &request.protocol_type)?.into(),
            protocols,
            session_ms: millis(session),
            rebalance_ms: millis(rebalance),
        })
    }

    /// Returns how long a member that joins may have to wait for the others: its rebalance timeout,
    /// after which clients give up too. Those of the others, which may be longer, are known to the
    /// coordinator only.
    pub fn join_duration(&self, request: &v1::JoinGroupRequest) -> Duration {
        self.initial_rebalance_delay + rebalance_timeout(request)
    }

    /// Returns how long a member may have to wait for its assignment: it comes from the leader,
    /// which is removed when its session expires.
    pub fn sync_duration(&self) -> Duration {
        self.max_session_timeout
    }

    fn check_protocols(&self, offered: Vec<v1::GroupProtocol>) -> Result<Arc<[MemberProtocol]>, Error> {
        if offered.len() > MAX_PROTOCOLS {
            return Err(invalid_request(format!(
                "a member may offer at most {MAX_PROTOCOLS} assignors, not {}",
                offered.len()
            )));
        }
        let bytes: usize = offered.iter().map(|protocol| protocol.metadata.len()).sum();
        if bytes > self.max_member_bytes {
            let message = format!(
                "the member's metadata has {bytes} bytes; the limit is {}",
                self.max_member_bytes
            );
            return Err(Error::new(ErrorCode::MessageTooLarge, message));
        }
        let mut seen = HashSet::new();
        let mut protocols = Vec::with_capacity(offered.len());
        for protocol in offered {
            let name: Arc<str> = check_name("an assignor's name", &protocol.name)?.into();
            if !seen.insert(name.clone()) {
                return Err(invalid_request(format!("the assignor {name:?} is offered twice")));
            }
            protocols.push(MemberProtocol {
                name,
                metadata: protocol.metadata,
            });
        }
        Ok(protocols.into())
    }

    /// Checks one offset to be committed, apart from its partition.
    pub(super) fn check_offset(&self, offset: &v1::CommitOffset) -> Result<(), Error> {
        if offset.offset < 0 {
            return Err(invalid_request(format!(
                "offset {} cannot be committed; offsets are not negative",
                offset.offset
            )));
        }
        if offset.metadata.len() > self.max_offset_metadata {
            let (given, limit) = (offset.metadata.len(), self.max_offset_metadata);
            let message = format!("the offset's metadata has {given} bytes; the limit is {limit}");
            return Err(Error::new(ErrorCode::OffsetMetadataTooLarge, message));
        }
        if offset.metadata.contains('\0') {
            return Err(invalid_request(
                "the offset's metadata contains a NUL character, which cannot be stored",
            ));
        }
        Ok(())
    }

    /// Checks the number of offsets in one request.
    pub(crate) fn check_offset_count(&self, count: usize) -> Result<(), Error> {
        if count > self.max_offsets {
            return Err(invalid_request(format!(
                "{count} offsets in one request; send at most {} at once",
                self.max_offsets
            )));
        }
        Ok(())
    }
}

/// Returns the rebalance timeout of a member: its session timeout if it names none.
fn rebalance_timeout(request: &v1::JoinGroupRequest) -> Duration {
    let given = match request.rebalance_timeout_ms {
        0 => request.session_timeout_ms,
        given => given,
    };
    Duration::from_millis(given.into()).min(MAX_REBALANCE_TIMEOUT)
}

/// Limits of the heartbeats of the consumer protocol.
impl GroupLimits {
    /// Checks a heartbeat of the consumer protocol, and shortens names whose end does not matter.
    ///
    /// # Errors
    /// INVALID_REQUEST or MESSAGE_TOO_LARGE.
    pub(super) fn check_heartbeat(&self, mut beat: MemberHeartbeat) -> Result<MemberHeartbeat, Error> {
        check_name("the member id", &beat.member_id)?;
        if let Some(instance) = &beat.instance {
            check_name("the group instance id", instance)?;
        }
        if let Some(rack) = &beat.rack {
            check_name("the rack id", rack)?;
        }
        let topics = beat.topics.iter().flat_map(|topics| topics.iter());
        let bytes: usize = topics.map(|topic| topic.len()).sum();
        if bytes > self.max_member_bytes {
            let limit = self.max_member_bytes;
            let message = format!("the subscribed topics have {bytes} bytes; the limit is {limit}");
            return Err(Error::new(ErrorCode::MessageTooLarge, message));
        }
        beat.client_id = truncate_name(&beat.client_id).into();
        beat.client_host = truncate_name(&beat.client_host).into();
        beat.rebalance_ms = beat
            .rebalance_ms
            .map(|ms| ms.clamp(0, millis(MAX_REBALANCE_TIMEOUT)));
        Ok(beat)
    }
}

/// Checks a group id.
pub(crate) fn check_group_id(id: &str) -> Result<(), Error> {
    let problem = match id {
        "" => "a group id cannot be empty",
        id if id.len() > MAX_NAME_LEN => "a group id has at most 255 bytes",
        id if id.contains('\0') => "a group id cannot contain a NUL character",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorCode::InvalidGroupId, problem))
}

/// Parses the group instance id of a request; an empty one is `None`.
pub(super) fn parse_instance_id(id: &str) -> Result<Option<&str>, Error> {
    if id.is_empty() {
        Ok(None)
    } else {
        check_name("the group instance id", id).map(Some)
    }
}

fn check_name<'a>(what: &str, name: &'a str) -> Result<&'a str, Error> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(invalid_request(format!(
            "{what} has {} bytes; use 1 to {MAX_NAME_LEN}",
            name.len()
        )));
    }
    Ok(name)
}

/// Truncates a name whose end does not matter.
fn truncate_name(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME_LEN)]
}

fn invalid_request(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::InvalidRequest, message)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn request() -> v1::JoinGroupRequest {
        v1::JoinGroupRequest {
            group_id: "g".to_owned(),
            client_id: "c".to_owned(),
            protocol_type: "consumer".to_owned(),
            protocols: vec![v1::GroupProtocol {
                name: "range".to_owned(),
                metadata: Bytes::from_static(b"m"),
            }],
            session_timeout_ms: 10_000,
            ..Default::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut v1::JoinGroupRequest)) -> ErrorCode {
        let mut request = request();
        change(&mut request);
        GroupLimits::default()
            .parse_join(request, "host")
            .unwrap_err()
            .code()
    }

    #[test]
    fn a_join_without_a_rebalance_timeout_takes_the_session_timeout() {
        let join = GroupLimits::default().parse_join(request(), "host").unwrap();
        assert_eq!((join.session_ms, join.rebalance_ms), (10_000, 10_000));
        let patient = v1::JoinGroupRequest {
            rebalance_timeout_ms: u32::MAX,
            ..request()
        };
        assert_eq!(
            GroupLimits::default()
                .parse_join(patient, "host")
                .unwrap()
                .rebalance_ms,
            86_400_000
        );
    }

    #[test]
    fn a_forwarded_join_or_sync_lasts_as_long_as_members_may_take() {
        let limits = GroupLimits::default();
        let join = |rebalance_timeout_ms| {
            limits.join_duration(&v1::JoinGroupRequest {
                rebalance_timeout_ms,
                ..request()
            })
        };
        assert_eq!(join(300_000), Duration::from_millis(300_500));
        assert_eq!(join(0), Duration::from_millis(10_500));
        assert_eq!(join(u32::MAX), Duration::from_millis(86_400_500));
        assert_eq!(limits.sync_duration(), Duration::from_secs(1800));
    }

    #[test]
    fn joins_out_of_bounds_are_refused_with_the_right_code() {
        use ErrorCode as E;
        assert_eq!(refusal(|r| r.group_id.clear()), E::InvalidGroupId);
        assert_eq!(refusal(|r| r.group_id = "x".repeat(256)), E::InvalidGroupId);
        assert_eq!(refusal(|r| r.group_id = "a\0b".to_owned()), E::InvalidGroupId);
        assert_eq!(refusal(|r| r.protocols.clear()), E::InconsistentGroupProtocol);
        assert_eq!(refusal(|r| r.protocol_type.clear()), E::InconsistentGroupProtocol);
        assert_eq!(
            refusal(|r| r.session_timeout_ms = 5_999),
            E::InvalidSessionTimeout
        );
        assert_eq!(
            refusal(|r| r.session_timeout_ms = 1_800_001),
            E::InvalidSessionTimeout
        );
        assert_eq!(
            refusal(|r| r.protocols[0].metadata = vec![0; (256 << 10) + 1].into()),
            E::MessageTooLarge
        );
        assert_eq!(
            refusal(|r| r.protocols = vec![r.protocols[0].clone(); 2]),
            E::InvalidRequest
        );
        assert_eq!(
            refusal(|r| r.protocols = vec![r.protocols[0].clone(); 33]),
            E::InvalidRequest
        );
        assert_eq!(refusal(|r| r.protocols[0].name.clear()), E::InvalidRequest);
        assert_eq!(
            refusal(|r| r.group_instance_id = "x".repeat(256)),
            E::InvalidRequest
        );
    }

    #[test]
    fn long_client_ids_are_cut_between_characters() {
        let long = v1::JoinGroupRequest {
            client_id: "ä".repeat(200),
            ..request()
        };
        let join = GroupLimits::default().parse_join(long, "host").unwrap();
        assert_eq!(&*join.client_id, "ä".repeat(127));
    }

    #[test]
    fn offsets_out_of_bounds_are_refused_one_by_one() {
        let limits = GroupLimits::default();
        let offset = |offset, metadata: &str| v1::CommitOffset {
            offset,
            metadata: metadata.to_owned(),
            ..Default::default()
        };
        assert!(limits.check_offset(&offset(0, &"m".repeat(4096))).is_ok());
        assert_eq!(
            limits.check_offset(&offset(-1, "")).unwrap_err().code(),
            ErrorCode::InvalidRequest
        );
        assert_eq!(
            limits.check_offset(&offset(0, "\0")).unwrap_err().code(),
            ErrorCode::InvalidRequest
        );
        let long = offset(0, &"m".repeat(4097));
        assert_eq!(
            limits.check_offset(&long).unwrap_err().code(),
            ErrorCode::OffsetMetadataTooLarge
        );
        assert!(limits.check_offset_count(20_000).is_ok() && limits.check_offset_count(20_001).is_err());
    }
}
