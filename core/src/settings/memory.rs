//! What an agent may hold in memory, derived from its settings: one number for each use, and their sum. The agent sizes its
//! budgets by them, and `docs/sizing.md` states them; each use takes its bytes from its own budget and waits, or asks its
//! client to slow down, when that is empty.

use super::AgentSettings;

const MIB: u64 = 1 << 20;
/// The largest segment: the upper bound of the topic setting `segment.bytes`.
const LARGEST_SEGMENT: u64 = 128 * MIB;
/// Blocks of the object store being read, each twice for a moment: as it arrives, and in the cache.
const BLOCKS_IN_FLIGHT: u64 = 64 * MIB;
/// Requests that are still arriving, unless two of the largest are more.
const ARRIVING: u64 = 128 * MIB;
/// Members of consumer groups.
const GROUPS: u64 = 128 * MIB;
/// The program, its threads, connections, and what the allocator keeps.
const BASE: u64 = 48 * MIB;

/// The budgets, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBudgets {
    /// Batches taken from producers and not yet acknowledged, and one object being put together of them.
    pub produce: u64,
    /// The newest batches, and blocks read from the object store.
    pub cache: u64,
    /// Answers to fetches, each counted twice: as read, and as encoded for its reader.
    pub fetch: u64,
    /// Blocks that are on their way from the object store.
    pub in_flight: u64,
    /// What reads of older batches put together of blocks.
    pub cold_reads: u64,
    /// The segment that is being written.
    pub roll: u64,
    /// Requests that are still arriving.
    pub requests: u64,
    /// Members of consumer groups.
    pub groups: u64,
    /// Everything else.
    pub base: u64,
}

impl MemoryBudgets {
    /// All of it: what an agent's resident memory stays under.
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
    /// What an agent with these settings may hold in memory.
    pub fn memory_budgets(&self) -> MemoryBudgets {
        // An object is full at flush-bytes; the request that filled it is in it, too.
        let object = self.flush_bytes.0.saturating_add(self.max_request_bytes.0);
        // A batch is answered whole, whatever its reader asked for.
        let answer = self.max_fetch_bytes.0.max(self.max_request_bytes.0);
        MemoryBudgets {
            produce: self.produce_memory.0.saturating_add(object),
            cache: self.cache_memory.0,
            fetch: self.cache_memory.0.max(answer.saturating_mul(2)),
            in_flight: BLOCKS_IN_FLIGHT,
            cold_reads: object.saturating_mul(2),
            roll: LARGEST_SEGMENT.saturating_add(object.saturating_mul(3)),
            requests: ARRIVING.max(self.max_request_bytes.0.saturating_mul(2)),
            groups: GROUPS,
            base: BASE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each number stands in the table of docs/sizing.md, and so does the sum.
    #[test]
    fn the_documented_sum_is_the_sum() {
        let budgets = AgentSettings::defaults(false).memory_budgets();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sizing.md");
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
            let row = row.unwrap_or_else(|| panic!("docs/sizing.md has no row {name}"));
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
