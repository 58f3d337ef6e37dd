//! The guard: one shell for each test process that ends what the test started and removes its folders, once the test is gone.
//!
//! The guard reads lines from a pipe whose other end only the test process holds. However that process ends, the kernel closes the
//! pipe, and the guard cleans up. Called by `process` and by whoever makes a folder; statics, which Rust never drops, rely on it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;

/// Ends each process group with its own polite signal, then with KILL, then removes the folders.
const SCRIPT: &str = r#"
groups= folders=
while read -r what value; do
  case $what in
    group) groups="$groups $value" ;;
    forget) kept=; for g in $groups; do [ "$g" = "$value" ] || kept="$kept $g"; done; groups=$kept ;;
    folder) folders="$folders$value
" ;;
  esac
done
for g in $groups; do kill -s "${g#*:}" -- "-${g%:*}"; done
tries=0
for g in $groups; do
  case $g in *:TERM) limit=600 ;; *) limit=50 ;; esac
  while kill -s 0 -- "-${g%:*}" && [ "$tries" -lt "$limit" ]; do tries=$((tries + 1)); sleep 0.1; done
  kill -s KILL -- "-${g%:*}"
done
printf '%s' "$folders" | while read -r folder; do rm -rf -- "$folder"; done
"#;

/// Ends the process group `group` with `signal` when the test process ends.
pub(crate) fn watch(group: u32, signal: &str) -> anyhow::Result<()> {
    tell(&format!("group {group}:{signal}\n"))
}

/// The process group has ended and been waited for: its number may be given to others.
pub(crate) fn forget(group: u32, signal: &str) {
    // A guard that cannot be told is a guard that has ended, which then ends nobody.
    let _ = tell(&format!("forget {group}:{signal}\n"));
}

/// A new temporary folder that is removed when it is dropped or the test process ends.
pub(crate) fn folder(prefix: &str) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .context("cannot make a temporary folder")?;
    let path = printable(folder.path())?;
    tell(&format!("folder {path}\n"))?;
    Ok(folder)
}

fn printable(path: &Path) -> anyhow::Result<&str> {
    let text = path
        .to_str()
        .context("the temporary folder's path is not UTF-8")?;
    anyhow::ensure!(
        !text.contains('\n'),
        "the temporary folder's path has a line break"
    );
    Ok(text)
}

fn tell(line: &str) -> anyhow::Result<()> {
    static GUARD: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    let mut guard = GUARD
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(start()?);
    }
    let pipe = guard.as_mut().context("the guard has no pipe")?;
    pipe.write_all(line.as_bytes())
        .context("the guard of the test's processes has ended")
}

fn start() -> anyhow::Result<ChildStdin> {
    let mut guard = Command::new("sh");
    // Its own process group: a Ctrl-C meant for the tests must not end the one that cleans up after them.
    guard
        .args(["-c", SCRIPT])
        .current_dir(PathBuf::from("/"))
        .process_group(0);
    guard
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = guard
        .spawn()
        .context("cannot start the guard of the test's processes")?;
    child.stdin.take().context("the guard has no pipe")
}
