//! CPU seconds of processes, as the kernel counts them.

use std::{collections::BTreeMap, fs};

use anyhow::Context;

/// Ticks of the kernel's clock in a second, on every Linux that the project supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of some processes, by name. The seconds of children that have ended count for their
/// parent.
#[derive(Debug)]
pub(crate) struct CpuTimes(BTreeMap<&'static str, f64>);

impl CpuTimes {
    /// Reads the times of processes: a name and the ids of each.
    pub(crate) fn read(processes: &[(&'static str, Vec<u32>)]) -> Self {
        let mut times = BTreeMap::new();
        for (name, ids) in processes {
            for id in ids {
                // One of PostgreSQL may end meanwhile; its seconds count for its parent then.
                if let Ok(seconds) = cpu_seconds(*id) {
                    *times.entry(*name).or_default() += seconds;
                }
            }
        }
        Self(times)
    }

    /// Returns the seconds since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let spent = self.0.iter().map(|(name, seconds)| {
            let earlier = before.0.get(name).copied().unwrap_or_default();
            (*name, (seconds - earlier).max(0.0))
        });
        Self(spent.collect())
    }

    /// Returns the seconds of the processes of this name.
    pub(crate) fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Returns the seconds of all.
    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let ticks = stat_fields(process)?;
    // utime, stime, and both of the children that have ended: fields 14 to 17.
    let spent: u64 = ticks
        .get(11..15)
        .context("a short line in /proc")?
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(spent as f64 / TICKS_PER_SECOND)
}

/// Returns the fields after the name of the program, the process's state first.
fn stat_fields(process: u32) -> anyhow::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a line of /proc without a name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// Returns the processes that this one has started, directly or not, whose program has this name.
pub(crate) fn descendants(program: &str) -> anyhow::Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    let mut named = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // It may end meanwhile.
        let (Ok(fields), Ok(name)) = (stat_fields(id), fs::read_to_string(entry.path().join("comm"))) else {
            continue;
        };
        if let Some(parent) = fields.get(1).and_then(|field| field.parse::<u32>().ok()) {
            parents.insert(id, parent);
        }
        if name.trim_end() == program {
            named.push(id);
        }
    }
    let me = std::process::id();
    named.retain(|id| {
        std::iter::successors(parents.get(id), |parent| parents.get(parent)).any(|parent| *parent == me)
    });
    Ok(named)
}
