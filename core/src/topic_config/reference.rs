//! The reference of topic settings.

use std::fmt::Write as _;

use super::{TOPIC_SETTING_DEFINITIONS, TopicSettingDefinition};

/// Returns the text of `docs/reference/topic-config.md`.
pub fn reference_markdown() -> String {
    let (effective, kept): (Vec<_>, Vec<_>) = TOPIC_SETTING_DEFINITIONS
        .iter()
        .partition(|definition| definition.has_effect);
    let mut out = "# Topic settings\n\nGenerated from the code; do not edit.\n\n".to_owned();
    write_table(&mut out, "what it does", &effective);
    out.push_str(TIMESTAMP_NOTES);
    write_table(&mut out, "why it has no effect", &kept);
    out.push_str(VALUE_NOTES);
    out
}

fn write_table(out: &mut String, title: &str, definitions: &[&TopicSettingDefinition]) {
    let _ = write!(
        out,
        "| setting | default | allowed | {title} |\n|---|---|---|---|\n"
    );
    for TopicSettingDefinition {
        key,
        default,
        bounds,
        help,
        ..
    } in definitions
    {
        let default = match *default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let _ = writeln!(out, "| `{key}` | {default} | {bounds} | {help} |");
    }
}

/// Notes below the table of settings with an effect.
const TIMESTAMP_NOTES: &str = "
## Timestamps and retention

`retention.ms` applies to the greatest timestamp of a WAL range or segment, but never to one later than the
time at which the range or segment was stored:

| timestamp | expiry |
|---|---|
| in the past | By the timestamp, as in Kafka: records older than `retention.ms` may be deleted in the next round, however recently they were stored. \
Set `message.timestamp.before.max.ms` to reject such batches instead. |
| in the future | By the time of storing, so that a producer's wrong clock cannot prevent later records from expiring. |
| -1 (none) or 0 | By the time of storing. In Kafka, 0 means the year 1970; here it means that no timestamp is set. |

With `message.timestamp.type=LogAppendTime`, all records of a batch have the time at which the leader appended it, and the limits of
timestamps do not apply. Otherwise, a batch is rejected with INVALID_TIMESTAMP if its first or greatest timestamp lies outside \
`message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`, or is less than -1. A batch without timestamps (-1) is accepted.

## Settings without an effect

Kafka has settings for the disks and replicas of brokers. They are checked, kept and reported, so that tools which set them work
as they are; changing them changes nothing.

";

/// Notes below the table of settings without one.
const VALUE_NOTES: &str = "
## Unsupported values

A value that the table does not allow is rejected with INVALID_CONFIG when a topic is created or altered. A topic with such a value
from an earlier version keeps working as if the setting were not set; reset it when convenient.
";
