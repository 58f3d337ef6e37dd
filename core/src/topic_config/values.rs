//! Reads the values of topic settings, with the bounds that Kafka has. Problems are described for
//! users.

/// Returns a whole number from `min` to `max`.
pub(super) fn parse_number(value: &str, min: i64, max: i64) -> Result<i64, String> {
    let number: i64 = value
        .trim()
        .parse()
        .map_err(|_| format!("{value:?} is not a whole number"))?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {min} and {max}"))
    }
}

/// Checks a whole number of at least `min`, of 32 bits.
pub(super) fn check_int(value: &str, min: i64) -> Result<(), String> {
    parse_number(value, min, i32::MAX.into()).map(drop)
}

/// Checks a whole number of at least `min`, of 64 bits.
pub(super) fn check_long(value: &str, min: i64) -> Result<(), String> {
    parse_number(value, min, i64::MAX).map(drop)
}

/// Checks the level of a codec, which may also be `other`, the codec's own default.
pub(super) fn check_level(value: &str, min: i64, max: i64, other: Option<i64>) -> Result<(), String> {
    match parse_number(value, i64::MIN, i64::MAX)? {
        level if other == Some(level) => Ok(()),
        _ => parse_number(value, min, max).map(drop),
    }
}

/// Checks a share from 0 to 1.
pub(super) fn check_share(value: &str) -> Result<(), String> {
    let share: f64 = value
        .trim()
        .parse()
        .map_err(|_| format!("{value:?} is not a number"))?;
    if (0.0..=1.0).contains(&share) {
        Ok(())
    } else {
        Err(format!("{share} is not between 0 and 1"))
    }
}

/// Returns `true` or `false`, in any case.
pub(super) fn parse_boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// Returns whether a cleanup policy, a list, deletes records. An empty one retains all records.
pub(super) fn parse_cleanup_policy(value: &str) -> Result<bool, String> {
    if value.trim().is_empty() {
        return Ok(false);
    }
    let mut deletes = false;
    for policy in value.split(',').map(str::trim) {
        match policy {
            "delete" => deletes = true,
            "compact" => {}
            other => {
                return Err(format!(
                    "{other:?} is not a cleanup policy; use delete, compact or both"
                ));
            }
        }
    }
    Ok(deletes)
}

/// Checks a list of replicas, each with its partition and its broker, or `*`.
pub(super) fn check_replicas(value: &str) -> Result<(), String> {
    let value = value.trim();
    let is_number = |text: &str| text.trim().parse::<u32>().is_ok();
    let is_replica = |replica: &str| {
        let parts = replica.split_once(':');
        parts.is_some_and(|(partition, broker)| is_number(partition) && is_number(broker))
    };
    if value.is_empty() || value == "*" || value.split(',').all(is_replica) {
        Ok(())
    } else {
        Err(format!(
            "{value:?} is neither * nor a list such as 0:1,1:1, of partitions with their brokers"
        ))
    }
}
