//! The guard: a shell process, one per test process, that ends the test's child processes and
//! removes its folders once the test process has ended.
//!
//! The guard reads lines from a pipe whose other end is held only by the test process. However that
//! process ends, the kernel closes the pipe, and the guard cleans up. Called by `process` and by
//! all code that creates folders. Statics rely on it, since Rust never drops them.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;

/// Sends each process group its own signal, then KILL, and removes the folders.
const GUARD_SCRIPT: &str = r#"
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

/// Registers the process group `group` to be ended with `signal` when the test process ends.
pub(crate) fn register_group(group: u32, signal: &str) -> anyhow::Result<()> {
    send_to_guard(&format!("group {group}:{signal}\n"))
}

/// Unregisters a process group that has ended, because its number may be reused.
pub(crate) fn unregister_group(group: u32, signal: &str) {
    // If the guard cannot be reached it has ended, and ends no group.
    let _ = send_to_guard(&format!("forget {group}:{signal}\n"));
}

/// Creates a temporary folder, which is removed when it is dropped or the test process ends.
///
/// # Errors
///
/// Fails if the folder cannot be created or the guard cannot be reached.
pub fn create_temp_folder(prefix: &str) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .context("cannot make a temporary folder")?;
    let path = path_to_line(folder.path())?;
    send_to_guard(&format!("folder {path}\n"))?;
    Ok(folder)
}

fn path_to_line(path: &Path) -> anyhow::Result<&str> {
    let text = path
        .to_str()
        .context("the temporary folder's path is not UTF-8")?;
    anyhow::ensure!(
        !text.contains('\n'),
        "the temporary folder's path has a line break"
    );
    Ok(text)
}

fn send_to_guard(line: &str) -> anyhow::Result<()> {
    static GUARD: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    let mut guard = GUARD
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(spawn_guard()?);
    }
    let pipe = guard.as_mut().context("the guard has no pipe")?;
    pipe.write_all(line.as_bytes())
        .context("the guard of the test's processes has ended")
}

fn spawn_guard() -> anyhow::Result<ChildStdin> {
    let mut guard = Command::new("sh");
    // In its own process group, so that a Ctrl-C for the tests does not end the guard.
    guard
        .args(["-c", GUARD_SCRIPT])
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
