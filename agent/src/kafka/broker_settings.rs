//! What tools ask of brokers and groups. Agents are configured by settings of their own, so all of
//! these are read-only.

use std::time::Duration;

use streamhouse_core::{
    Error, ErrorCode,
    kafka::DescribeConfigsResourceResult,
    topic_config::{TOPIC_SETTING_DEFINITIONS, TopicSettingType, find_definition},
};

use super::{limits, log_dirs::LOG_DIR, request::RequestContext};

/// Set at the start of the broker, or the default.
const SOURCE_STATIC: i8 = 4;
pub(super) const SOURCE_DEFAULT: i8 = 5;

/// Returns Kafka's number of a type.
pub(super) fn type_number(kind: TopicSettingType) -> i8 {
    match kind {
        TopicSettingType::Boolean => 1,
        TopicSettingType::String => 2,
        TopicSettingType::Int => 3,
        TopicSettingType::Long => 5,
        TopicSettingType::Double => 6,
        TopicSettingType::List => 7,
    }
}

/// Returns the settings of the broker with this number; none of all brokers together, whose name is
/// empty.
///
/// # Errors
///
/// INVALID_REQUEST for another broker: clients ask each for its own.
pub(super) fn of_broker(
    context: &RequestContext,
    name: &str,
) -> Result<Vec<DescribeConfigsResourceResult>, Error> {
    if name.is_empty() {
        return Ok(Vec::new());
    }
    let session = context.client.deps.fetch.session.get();
    let own = session.map(|session| session.node_id);
    if name.parse().ok() != own || own.is_none() {
        let message = format!(
            "broker {name:?} is not this one, which is {}",
            own.map_or_else(|| "none now".to_owned(), |own| own.to_string())
        );
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    let mut settings = own_settings(context, name);
    let set: Vec<String> = settings.iter().map(|setting| setting.name.clone()).collect();
    let defaults = TOPIC_SETTING_DEFINITIONS.iter().filter_map(|definition| {
        let broker_setting = definition.broker_setting?;
        let value = definition.default.to_owned();
        Some(described(broker_setting, value, definition.kind, SOURCE_DEFAULT))
    });
    settings.extend(defaults.filter(|setting| !set.contains(&setting.name)));
    settings.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(settings)
}

fn own_settings(context: &RequestContext, node_id: &str) -> Vec<DescribeConfigsResourceResult> {
    use TopicSettingType::{Boolean, Int, List, Long, String as Text};
    let deps = &context.client.deps;
    let view = deps.directory.view();
    let session = deps.fetch.session.get();
    let agent = session.and_then(|session| view.agent(session.incarnation).cloned());
    let (address, zone) = agent.map_or_else(Default::default, |agent| (agent.kafka_address, agent.zone));
    let (auto_create, largest) = (deps.auto_create_partitions, deps.max_request_bytes.to_string());
    let largest_fetch = deps.fetch.limits.max_response_bytes.to_string();
    let static_settings = [
        ("advertised.listeners", format!("PLAINTEXT://{address}"), List),
        (
            "auto.create.topics.enable",
            auto_create.is_some().to_string(),
            Boolean,
        ),
        ("broker.id", node_id.to_owned(), Int),
        ("broker.rack", zone, Text),
        ("fetch.max.bytes", largest_fetch, Int),
        ("log.dirs", LOG_DIR.to_owned(), List),
        ("message.max.bytes", largest.clone(), Int),
        ("node.id", node_id.to_owned(), Int),
        ("num.partitions", auto_create.unwrap_or(1).to_string(), Int),
        ("process.roles", "broker,controller".to_owned(), List),
        ("socket.request.max.bytes", largest, Int),
    ];
    let expiry = millis(streamhouse_metadata::PRODUCER_EXPIRY);
    let defaults = [
        ("connections.max.idle.ms", millis(limits::IDLE_TIMEOUT), Long),
        ("default.replication.factor", "1".to_owned(), Int),
        ("delete.topic.enable", "true".to_owned(), Boolean),
        ("log.retention.ms", default_of("retention.ms"), Long),
        ("log.roll.ms", default_of("segment.ms"), Long),
        ("offsets.topic.num.partitions", slots(), Int),
        ("offsets.topic.replication.factor", "1".to_owned(), Int),
        ("producer.id.expiration.ms", expiry, Int),
        ("transaction.state.log.min.isr", "1".to_owned(), Int),
        ("transaction.state.log.replication.factor", "1".to_owned(), Int),
    ];
    let listed = |source| {
        move |(name, value, kind): (&str, String, TopicSettingType)| described(name, value, kind, source)
    };
    let mut settings: Vec<_> = static_settings.map(listed(SOURCE_STATIC)).into();
    settings.extend(defaults.map(listed(SOURCE_DEFAULT)));
    settings
}

fn slots() -> String {
    streamhouse_metadata::GROUP_SLOTS.to_string()
}

fn default_of(key: &str) -> String {
    find_definition(key).map_or_else(|_| String::new(), |definition| definition.default.to_owned())
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Returns the settings of a group, which are those of all groups.
///
/// # Errors
///
/// INVALID_REQUEST if the name is empty.
pub(super) fn of_group(
    context: &RequestContext,
    name: &str,
) -> Result<Vec<DescribeConfigsResourceResult>, Error> {
    if name.is_empty() {
        let message = "the name of a group is not empty";
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    let groups = &context.client.deps.groups;
    let settings = [
        (
            "consumer.heartbeat.interval.ms",
            groups.consumer_heartbeat_ms().to_string(),
        ),
        (
            "consumer.session.timeout.ms",
            millis(groups.deps().limits.consumer_session_timeout),
        ),
    ];
    let settings =
        settings.map(|(name, value)| described(name, value, TopicSettingType::Int, SOURCE_DEFAULT));
    Ok(settings.into())
}

fn described(
    name: &str,
    value: String,
    kind: TopicSettingType,
    config_source: i8,
) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: name.to_owned(),
        value: Some(value),
        read_only: true,
        config_source,
        config_type: type_number(kind),
        ..DescribeConfigsResourceResult::default()
    }
}
