//! The memory budgets of an agent, derived from its settings: one bound for each use, and their
//! sum. Agents size their budgets by them, and `docs/operate/sizing-and-cost.md` documents them.
//! Each use takes bytes from its own budget; if that is exhausted, it waits or asks the client to
//! slow down.

use super::AgentSettings;

const MIB: u64 = 1 << 20;
/// The largest segment: the upper bound of the topic setting `segment.bytes`.
const MAX_SEGMENT_BYTES: u64 = 128 * MIB;
/// Blocks being read from the object store. Each is briefly held twice: as received and in the
/// cache.
const INFLIGHT_BLOCK_BYTES: u64 = 64 * MIB;
/// Requests being received, unless two of the largest size take more.
const INCOMING_REQUEST_BYTES: u64 = 128 * MIB;
/// State of consumer group members.
const GROUP_MEMBER_BYTES: u64 = 128 * MIB;
/// The program, its threads and connections, and what the allocator retains.
const BASE_BYTES: u64 = 48 * MIB;

/// The memory budgets, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBudgets {
    /// Batches accepted from producers and not yet acknowledged, and one object being assembled
    /// from them.
    pub produce: u64,
    /// The newest batches, and blocks read from the object store.
    pub cache: u64,
    /// Fetch responses, each counted twice: as read and as encoded.
    pub fetch: u64,
    /// Blocks being received from the object store.
    pub in_flight: u64,
    /// Older batches assembled from blocks.
    pub cold_reads: u64,
    /// The segment being written.
    pub roll: u64,
    /// Requests being received or forwarded to other agents; a sixteenth is for forwarded calls.
    pub requests: u64,
    /// Members of consumer groups.
    pub groups: u64,
    /// Everything else.
    pub base: u64,
}

impl MemoryBudgets {
    /// Returns the sum of all budgets, which bounds the agent's resident memory.
    pub fn total(&self) -> u64 {
        let Self {
            produce,
            cache,
            fetch,
            in_flight,
            cold_reads,
            roll,
            requests,
            groups,
            base,
        } = *self;
        [
            produce, cache, fetch, in_flight, cold_reads, roll, requests, groups, base,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

impl AgentSettings {
    /// Returns the memory budgets of an agent with these settings.
    pub fn memory_budgets(&self) -> MemoryBudgets {
        // An object is full at flush-bytes, plus the request that filled it.
        let object = self.flush_bytes.0.saturating_add(self.max_request_bytes.0);
        // A batch is returned whole, even if it is larger than the reader's limit.
        let answer = self.max_fetch_bytes.0.max(self.max_request_bytes.0);
        MemoryBudgets {
            produce: self.produce_memory.0.saturating_add(object),
            cache: self.cache_memory.0,
            fetch: self.cache_memory.0.max(answer.saturating_mul(2)),
            in_flight: INFLIGHT_BLOCK_BYTES,
            cold_reads: object.saturating_mul(2),
            roll: MAX_SEGMENT_BYTES.saturating_add(object.saturating_mul(3)),
            requests: INCOMING_REQUEST_BYTES.max(self.max_request_bytes.0.saturating_mul(2)),
            groups: GROUP_MEMBER_BYTES,
            base: BASE_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verifies every budget and the sum in the table of docs/operate/sizing-and-cost.md.
    #[test]
    fn the_documented_sum_is_the_sum() {
        let budgets = AgentSettings::defaults(false).memory_budgets();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/sizing-and-cost.md");
        let page = std::fs::read_to_string(path).unwrap();
        for (name, bytes) in [
            ("produce", budgets.produce),
            ("cache", budgets.cache),
            ("fetch", budgets.fetch),
            ("in_flight", budgets.in_flight),
            ("cold_reads", budgets.cold_reads),
            ("roll", budgets.roll),
            ("requests", budgets.requests),
            ("groups", budgets.groups),
            ("base", budgets.base),
            ("**sum**", budgets.total()),
        ] {
            let row = page.lines().find(|line| {
                line.starts_with(&format!("| `{name}` |")) || line.starts_with(&format!("| {name} |"))
            });
            let row = row.unwrap_or_else(|| panic!("docs/operate/sizing-and-cost.md has no row {name}"));
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let default = cells[cells.len() - 2].trim_matches('*');
            assert_eq!(default, format!("{} MiB", bytes / MIB), "{name}");
        }
    }

    #[test]
    fn the_budgets_follow_the_settings() {
        let mut settings = AgentSettings::defaults(false);
        let usual = settings.memory_budgets();
        settings.max_fetch_bytes.0 = 64 * MIB;
        settings.max_request_bytes.0 = 64 * MIB;
        settings.cache_memory.0 = MIB;
        let other = settings.memory_budgets();
        assert_eq!(
            other.fetch,
            128 * MIB,
            "at least one answer of the largest size fits"
        );
        assert_eq!(other.cold_reads, 2 * 72 * MIB);
        assert_eq!(other.produce - usual.produce, 48 * MIB);
        assert_eq!(other.cache, MIB);
    }
}
