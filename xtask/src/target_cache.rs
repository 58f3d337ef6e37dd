//! What dependencies were compiled to, kept between clean checkouts.
//!
//! Owns folders `target-COMPILER-KEY` in the cache folder: the release profile's artifacts of the
//! registry's crates, and nothing of the workspace's own. COMPILER is a digest of the toolchain and
//! its flags, KEY one of Cargo.lock and of all else that decides how a dependency is compiled. A
//! clean checkout copies such a folder and works on the copy, so several runs never share a file; a
//! run that compiled more dependencies than the folder has puts another one in its place. Without a
//! folder of its own key a checkout starts from the latest of the same compiler, and compiles only
//! what differs. `STREAMHOUSE_TARGET_CACHE=off` turns the cache off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

/// Folders that are kept: one for the last lock file, one for the one before.
const KEPT: usize = 2;
/// How many lock files in a row may start from the folder of the one before. Each leaves what only
/// its predecessors use; after the last, everything is compiled anew.
const MAX_GENERATION: u32 = 8;
/// Holds the number of lock files whose artifacts may be in the folder beside those of its own.
const GENERATION_FILE: &str = "dependencies-generation";
/// What lies in a profile's target folder by package or crate. Cargo writes a fingerprint when
/// everything else is there, so they are copied first: a copy that is made while another cargo
/// compiles has no fingerprint of what is not complete.
const PARTS: &[&str] = &[".fingerprint", "build", "deps"];

/// The cached folder that fits this checkout, and the checkout's own.
#[derive(Debug)]
pub(crate) struct TargetCache {
    cache: PathBuf,
    /// What the names of all folders of this compiler begin with.
    prefix: String,
    cached: PathBuf,
    profile: PathBuf,
    /// Names of the workspace's packages and of all that they are compiled to.
    own: BTreeSet<String>,
}

/// What [`TargetCache::restore`] copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoredDependencies {
    /// Nothing: there is no folder, or the checkout was built before.
    Nothing,
    /// The artifacts of this lock file.
    SameLock,
    /// Those of another lock file.
    OtherLock,
}

impl TargetCache {
    /// None if it is turned off.
    pub(crate) fn open(root: &Path, cache: &Path) -> anyhow::Result<Option<TargetCache>> {
        if std::env::var_os("STREAMHOUSE_TARGET_CACHE").is_some_and(|value| value == "off") {
            return Ok(None);
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let prefix = format!("target-{:016x}-", digest(&compiler(root)?));
        Ok(Some(TargetCache {
            cache: cache.to_owned(),
            cached: cache.join(format!("{prefix}{:016x}", digest(&inputs(root)?))),
            prefix,
            profile: target.join("release"),
            own: own_names(&metadata(root)?),
        }))
    }

    /// Copies the cached artifacts into a target folder that has none.
    pub(crate) fn restore(&self) -> anyhow::Result<RestoredDependencies> {
        if self.profile.join("deps").exists() {
            return Ok(RestoredDependencies::Nothing);
        }
        let lock = self.lock_file()?;
        lock.lock_shared()?;
        let (from, generation) = if self.cached.exists() {
            (self.cached.clone(), generation(&self.cached))
        } else {
            match self.latest() {
                Some(other) => (other.clone(), generation(&other) + 1),
                None => return Ok(RestoredDependencies::Nothing),
            }
        };
        // Used last, for whoever removes the oldest.
        File::create(from.join("used"))?;
        for part in PARTS {
            copy(&from.join(part), &self.profile.join(part), &|_| true)
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        fs::write(self.profile.join(GENERATION_FILE), generation.to_string())?;
        Ok(if from == self.cached {
            RestoredDependencies::SameLock
        } else {
            RestoredDependencies::OtherLock
        })
    }

    /// Returns the folder of this compiler that was used last, if it may serve another lock file.
    fn latest(&self) -> Option<PathBuf> {
        let mut folders = self.folders().ok()?.into_iter().rev();
        let latest = folders.find(|folder| self.is_of_compiler(folder));
        latest.filter(|latest| generation(latest) < MAX_GENERATION)
    }

    fn is_of_compiler(&self, folder: &Path) -> bool {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&self.prefix)
    }

    /// Keeps the artifacts of this checkout's dependencies, if one of them is not cached or was
    /// compiled again. Says whether it did.
    pub(crate) fn save(&self) -> anyhow::Result<bool> {
        let units = |profile: &Path| self.dependencies(profile).unwrap_or_default();
        let cached = units(&self.cached);
        let is_cached = |(unit, fingerprint): (&String, &u64)| cached.get(unit) == Some(fingerprint);
        if units(&self.profile).iter().all(is_cached) {
            return Ok(false);
        }
        let lock = self.lock_file()?;
        lock.lock()?;
        // One that is there was left by a run that was killed: whoever makes one holds the lock.
        let new = self.cache.join("target.new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        let copied = PARTS.iter().try_for_each(|part| {
            copy(&self.profile.join(part), &new.join(part), &|name| {
                !self.is_own(name)
            })
        });
        if let Err(error) = copied {
            // Half a copy helps nobody; the error is what matters.
            let _ = fs::remove_dir_all(&new);
            return Err(error).context("cannot keep the artifacts of the dependencies");
        }
        File::create(new.join("used"))?;
        fs::write(new.join(GENERATION_FILE), generation(&self.profile).to_string())?;
        if self.cached.exists() {
            fs::remove_dir_all(&self.cached)?;
        }
        fs::rename(&new, &self.cached)?;
        self.remove_oldest()?;
        Ok(true)
    }

    fn lock_file(&self) -> anyhow::Result<File> {
        fs::create_dir_all(&self.cache)?;
        File::create(self.cache.join("target.lock")).context("cannot lock the cache of artifacts")
    }

    /// The units of dependencies that a profile's folder has, each with a digest of cargo's
    /// fingerprint: a unit that cargo does not take for fresh is compiled again and gets another.
    fn dependencies(&self, profile: &Path) -> io::Result<BTreeMap<String, u64>> {
        let mut units = BTreeMap::new();
        for entry in fs::read_dir(profile.join(".fingerprint"))? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if !self.is_own(&name) => units.insert(name, fingerprint(&entry.path())?),
                _ => continue,
            };
        }
        Ok(units)
    }

    /// Whether a file or folder of this name comes from the workspace: `[lib]NAME-HASH…`.
    fn is_own(&self, file: &str) -> bool {
        let Some((name, _)) = file.rsplit_once('-') else {
            return false;
        };
        let without_lib = name.strip_prefix("lib").unwrap_or(name);
        self.own.contains(name) || self.own.contains(without_lib)
    }

    fn remove_oldest(&self) -> anyhow::Result<()> {
        let folders = self.folders()?;
        for folder in folders.iter().take(folders.len().saturating_sub(KEPT)) {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    /// Returns the folders of the cache; the one that was used last comes last.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let used = |folder: &Path| {
            folder
                .join("used")
                .metadata()
                .and_then(|used| used.modified())
                .ok()
        };
        let mut folders: Vec<PathBuf> = fs::read_dir(&self.cache)?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("target-"))
            .map(|entry| entry.path())
            .collect();
        folders.sort_by_key(|folder| used(folder));
        Ok(folders)
    }
}

/// Returns how many other lock files may have left artifacts in a folder.
fn generation(folder: &Path) -> u32 {
    let text = fs::read_to_string(folder.join(GENERATION_FILE)).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

/// What compiles: nothing that another one compiled can be used.
fn compiler(root: &Path) -> anyhow::Result<String> {
    let toolchain = Command::new("rustc").arg("-vV").current_dir(root).output()?;
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    Ok([String::from_utf8_lossy(&toolchain.stdout).into_owned(), flags].join("\0"))
}

/// What else decides how a dependency is compiled.
fn inputs(root: &Path) -> anyhow::Result<String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let manifest: toml::Table = read("Cargo.toml").parse()?;
    let profile = manifest.get("profile").map(|profile| format!("{profile:?}"));
    Ok([
        read("Cargo.lock"),
        read("workspace-hack/Cargo.toml"),
        read(".cargo/config.toml"),
        profile.unwrap_or_default(),
    ]
    .join("\0"))
}

/// FNV-1a: the same for every build of this crate.
fn digest(text: &str) -> u64 {
    let step = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn metadata(root: &Path) -> anyhow::Result<Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns a digest of the fingerprint that cargo keeps in this folder.
fn fingerprint(unit: &Path) -> io::Result<u64> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(unit)? {
        let path = entry?.path();
        // Cargo compares the short files without an extension; the others explain and date them.
        if path.extension().is_none() {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            texts.insert(path.clone().into_os_string(), text);
        }
    }
    Ok(digest(&texts.into_values().collect::<Vec<String>>().join("\0")))
}

/// Packages as they are named, and targets as they are named in files.
fn own_names(metadata: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let targets = package["targets"].as_array().into_iter().flatten();
        let all = targets
            .chain([package])
            .filter_map(|named| named["name"].as_str());
        for name in all {
            names.insert(name.to_owned());
            names.insert(name.replace('-', "_"));
        }
    }
    names
}

/// Copies a folder with the times of its files, which cargo compares; at the top only what is
/// wanted.
fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !wanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let target = to.join(entry.file_name());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            copy(&entry.path(), &target, &|_| true)?;
        } else if metadata.is_file() {
            fs::copy(entry.path(), &target)?;
            File::open(&target)?.set_modified(metadata.modified()?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A cache with a checkout beside it, in a folder that is gone at the end.
    struct TestCache {
        folder: PathBuf,
        cache: TargetCache,
    }

    impl TestCache {
        fn new(name: &str) -> TestCache {
            let folder = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let metadata = json!({ "packages": [{ "name": "streamhouse-core", "targets": [{ "name": "streamhouse_core" }, { "name": "fuzz-like" }] }] });
            let cache = TargetCache {
                cache: folder.join("cache"),
                prefix: "target-1-".to_owned(),
                cached: folder.join("cache/target-1-1"),
                profile: folder.join("one/release"),
                own: own_names(&metadata),
            };
            TestCache { folder, cache }
        }

        fn write(&self, path: &str) {
            let path = self.cache.profile.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }

        /// As a clean checkout that was just made.
        fn check_out(&mut self, name: &str) {
            self.cache.profile = self.folder.join(name).join("release");
        }

        fn has(&self, path: &str) -> bool {
            self.cache.profile.join(path).exists()
        }
    }

    impl Drop for TestCache {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    fn built(name: &str) -> TestCache {
        let test = TestCache::new(name);
        for path in [
            ".fingerprint/bytes-1/lib",
            ".fingerprint/streamhouse-core-2/lib",
            "build/libc-3/out/made",
            "build/streamhouse-core-4/output",
            "deps/libbytes-1.rlib",
            "deps/libstreamhouse_core-2.rlib",
            "deps/fuzz_like-5",
        ] {
            test.write(path);
        }
        test
    }

    #[test]
    fn a_clean_checkout_gets_what_dependencies_were_compiled_to_and_nothing_else() {
        let mut test = built("clean");
        assert!(test.cache.save().unwrap());
        test.check_out("two");
        assert_eq!(test.cache.restore().unwrap(), RestoredDependencies::SameLock);
        let kept = [
            ".fingerprint/bytes-1/lib",
            "build/libc-3/out/made",
            "deps/libbytes-1.rlib",
        ];
        assert!(kept.iter().all(|path| test.has(path)));
        let own = [
            ".fingerprint/streamhouse-core-2",
            "build/streamhouse-core-4",
            "deps/libstreamhouse_core-2.rlib",
            "deps/fuzz_like-5",
        ];
        assert!(!own.iter().any(|path| test.has(path)));
    }

    #[test]
    fn times_are_kept_because_cargo_compares_them() {
        let mut test = built("times");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let file = File::open(test.cache.profile.join("deps/libbytes-1.rlib")).unwrap();
        file.set_modified(time).unwrap();
        assert!(test.cache.save().unwrap());
        test.check_out("two");
        assert_eq!(test.cache.restore().unwrap(), RestoredDependencies::SameLock);
        let copied = test.cache.profile.join("deps/libbytes-1.rlib");
        assert_eq!(copied.metadata().unwrap().modified().unwrap(), time);
    }

    #[test]
    fn a_checkout_that_was_built_is_left_alone() {
        let test = built("built");
        assert!(test.cache.save().unwrap());
        test.write("deps/libbytes-1.rlib");
        assert_eq!(test.cache.restore().unwrap(), RestoredDependencies::Nothing);
    }

    #[test]
    fn a_dependency_that_was_compiled_again_replaces_the_cached_one() {
        let test = built("again");
        assert!(test.cache.save().unwrap());
        assert!(!test.cache.save().unwrap());
        let unit = test.cache.profile.join(".fingerprint/bytes-1/lib");
        fs::write(unit, "another environment of its build script").unwrap();
        assert!(test.cache.save().unwrap());
        assert!(!test.cache.save().unwrap());
    }

    #[test]
    fn only_a_run_that_compiled_more_dependencies_is_kept() {
        let test = built("more");
        assert!(test.cache.save().unwrap());
        test.write(".fingerprint/streamhouse-core-9/lib");
        assert!(!test.cache.save().unwrap());
        test.write(".fingerprint/either-6/lib");
        assert!(test.cache.save().unwrap());
    }

    #[test]
    fn the_oldest_folders_are_removed() {
        let mut test = built("oldest");
        for number in 1..=4 {
            test.cache.cached = test.cache.cache.join(format!("target-1-{number}"));
            assert!(test.cache.save().unwrap());
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(number);
            File::open(test.cache.cached.join("used"))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        let left = fs::read_dir(&test.cache.cache).unwrap().flatten();
        let left: BTreeSet<String> = left
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        let expected = ["target-1-3", "target-1-4", "target.lock"].map(str::to_owned);
        assert_eq!(left, BTreeSet::from(expected));
    }

    #[test]
    fn another_lock_file_starts_from_the_latest_folder_of_the_compiler() {
        let mut test = built("latest");
        assert!(test.cache.save().unwrap());
        test.check_out("two");
        test.cache.cached = test.folder.join("cache/target-1-2");
        assert_eq!(test.cache.restore().unwrap(), RestoredDependencies::OtherLock);
        assert!(test.has("deps/libbytes-1.rlib"));
        test.write(".fingerprint/either-6/lib");
        assert!(test.cache.save().unwrap());
        test.check_out("three");
        assert_eq!(test.cache.restore().unwrap(), RestoredDependencies::SameLock);
        assert!(test.has("deps/libbytes-1.rlib") && test.has(".fingerprint/either-6/lib"));
        assert_eq!(generation(&test.cache.profile), 1);
    }

    #[test]
    fn artifacts_of_another_compiler_are_not_used() {
        let mut test = built("compiler");
        assert!(test.cache.save().unwrap());
        test.check_out("two");
        test.cache.prefix = "target-2-".to_owned();
        test.cache.cached = test.folder.join("cache/target-2-1");
        assert_eq!(test.cache.restore().unwrap(), RestoredDependencies::Nothing);
    }

    #[test]
    fn artifacts_of_old_lock_files_go_after_some_generations() {
        let mut test = built("generations");
        assert!(test.cache.save().unwrap());
        let mut restored = Vec::new();
        for number in 2..=MAX_GENERATION + 3 {
            test.check_out(&number.to_string());
            test.cache.cached = test.folder.join(format!("cache/target-1-{number}"));
            restored.push(test.cache.restore().unwrap());
            for part in PARTS {
                test.write(&format!("{part}/new-{number}/lib"));
            }
            assert!(test.cache.save().unwrap());
        }
        let cold = restored
            .iter()
            .filter(|one| **one == RestoredDependencies::Nothing);
        assert_eq!(cold.count(), 1, "{restored:?}");
    }

    #[test]
    fn each_input_changes_the_key() {
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
        assert_ne!(digest(""), digest("\0"));
    }
}
