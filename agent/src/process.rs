//! Owns the resource usage of this process (CPU seconds and resident memory), read from
//! `/proc/self` by the metrics at each scrape.

use std::fs;

/// Clock ticks per second in `/proc/self/stat`: Linux reports hundredths on every supported
/// architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resources that this process has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: f64,
}

/// Returns the current usage, or `None` where `/proc` does not exist.
pub fn read_usage() -> Option<ProcessUsage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    parse_usage(&stat, &status)
}

fn parse_usage(stat: &str, status: &str) -> Option<ProcessUsage> {
    // The command name stands in parentheses and may contain anything, so fields are counted after
    // it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11); // state is field 3, utime field 14
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(ProcessUsage {
        cpu_seconds: (user + system) / TICKS_PER_SECOND,
        resident_bytes: kib * 1024.0,
    })
}

/// Returns the host's name, the default of the advertised address; `None` if it is unknown.
pub fn host_name() -> Option<String> {
    let from_environment = std::env::var("HOSTNAME").ok();
    let name = from_environment.or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_commands_name() {
        let stat = "42 (a) b c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 4 0 100 1000 2000";
        let status = "Name:\tx\nVmRSS:\t    2048 kB\n";
        assert_eq!(
            parse_usage(stat, status),
            Some(ProcessUsage {
                cpu_seconds: 4.0,
                resident_bytes: 2_097_152.0
            })
        );
        assert_eq!(parse_usage("", ""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(read_usage().unwrap().resident_bytes > 0.0);
    }
}
