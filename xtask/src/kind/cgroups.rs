//! The control groups of a lab: the one thing of it that no namespace takes away.
//!
//! dockerd makes all of its containers' groups below one of the lab's name, in each hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use streamhouse_testkit::wait_until;

const HIERARCHIES: &str = "/sys/fs/cgroup";
/// Groups can be removed once the kernel has ended their last process.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Removes the groups of this name in all hierarchies, with those below them.
///
/// # Errors
///
/// Fails if they have processes for long.
pub(super) fn remove(name: &str) -> anyhow::Result<()> {
    let groups = find(|found| found == name);
    let what = format!("the end of the processes in the control groups {groups:?}");
    wait_until(&what, TIMEOUT, || {
        for group in &groups {
            remove_tree(group);
        }
        Ok(groups.iter().all(|group| !group.exists()).then_some(()))
    })
}

/// Removes the groups of labs that were killed: those without processes. Groups of labs that run
/// stay, because the kernel removes no group with a process.
pub(super) fn remove_stale(prefix: &str) {
    for group in find(|name| name.starts_with(prefix)) {
        remove_tree(&group);
    }
}

/// Returns the groups of the first level whose name fits. In version 2 there is one hierarchy,
/// whose first level is the folder itself.
fn find(fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut parents = vec![PathBuf::from(HIERARCHIES)];
    parents.extend(folders_in(Path::new(HIERARCHIES)));
    let groups = parents.iter().flat_map(|parent| folders_in(parent));
    groups
        .filter(|group| {
            group
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(&fits)
        })
        .collect()
}

/// Removes a group and those below it, as far as they have no processes.
fn remove_tree(group: &Path) {
    for below in folders_in(group) {
        remove_tree(&below);
    }
    // One that has processes stays, and is found by the caller.
    let _ = fs::remove_dir(group);
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
