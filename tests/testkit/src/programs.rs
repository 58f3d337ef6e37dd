//! Locates the programs that tests start. Never installs anything; the errors refer to
//! `hack/test.sh`, which does.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The versions that `hack/test.sh` installs.
const VERSIONS: &str = include_str!("../../../hack/versions.sh");

/// Returns the MinIO binary: `$STREAMHOUSE_MINIO`, or the pinned version in the cache folder.
pub(crate) fn minio() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_MINIO") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_MINIO names a file that does not exist");
    }
    let folder = format!("minio-{}", pinned_version("MINIO_VERSION")?);
    let path = cache_folder()?.join(folder).join("minio");
    ensure_exists(path).context("MinIO is missing: run hack/test.sh, which installs it")
}

/// Returns a program of Kubernetes: in the folder `$STREAMHOUSE_KUBERNETES`, or the pinned version
/// in the cache folder.
#[cfg(feature = "servers")]
pub(crate) fn kubernetes(name: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("STREAMHOUSE_KUBERNETES") {
        Some(folder) => PathBuf::from(folder),
        None => cache_folder()?.join(format!("kubernetes-{}", pinned_version("KUBERNETES_VERSION")?)),
    };
    ensure_exists(folder.join(name))
        .with_context(|| format!("{name} is missing: run hack/test.sh, which installs it"))
}

/// Returns the folder with the custom resource definitions of the Prometheus operator: in
/// `$STREAMHOUSE_PROMETHEUS_OPERATOR`, or the pinned version in the cache folder.
#[cfg(feature = "servers")]
pub(crate) fn monitoring_definitions() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("STREAMHOUSE_PROMETHEUS_OPERATOR") {
        Some(folder) => PathBuf::from(folder),
        None => cache_folder()?.join(format!(
            "prometheus-operator-{}",
            pinned_version("PROMETHEUS_OPERATOR_VERSION")?
        )),
    };
    ensure_exists(folder.join("crds"))
        .context("the definitions of the Prometheus operator are missing: run hack/test.sh, which makes them")
}

/// Returns helm: `$STREAMHOUSE_HELM`, or the newest one in the cache folder. The folder's name is a
/// digest of helm's build inputs.
#[cfg(feature = "servers")]
pub(crate) fn helm() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_HELM") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_HELM names a file that does not exist");
    }
    find_newest("kubernetes-tools-", "helm")?.context("helm is missing: run hack/test.sh, which installs it")
}

/// Returns the OpenTelemetry Collector: `$STREAMHOUSE_OTEL_COLLECTOR`, or the newest build of the
/// pinned version in the cache folder. The folder's name ends with a digest of the build inputs.
#[cfg(feature = "servers")]
pub(crate) fn otel_collector() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_OTEL_COLLECTOR") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_OTEL_COLLECTOR names a file that does not exist");
    }
    let prefix = format!("otel-collector-{}-", pinned_version("OTEL_COLLECTOR_VERSION")?);
    find_newest(&prefix, "otel-collector")?
        .context("the OpenTelemetry Collector is missing: run hack/test.sh, which installs it")
}

/// Returns the folder with the Java archives of Apache Kafka: `lib` in `$STREAMHOUSE_KAFKA`, or of
/// the pinned version in the cache folder.
#[cfg(feature = "servers")]
pub(crate) fn kafka_archives() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_KAFKA") {
        return ensure_exists(Path::new(&path).join("lib"))
            .context("$STREAMHOUSE_KAFKA names a folder without a folder lib");
    }
    let prefix = format!("kafka-{}-", pinned_version("KAFKA_VERSION")?);
    find_newest(&prefix, "lib")?.context("Apache Kafka is missing: run hack/test-kafka.sh, which installs it")
}

/// Returns the tests of the client franz-go: `$STREAMHOUSE_FRANZ_GO`, or those of the pinned
/// version in the cache folder.
///
/// # Errors
///
/// Fails if they are not built.
#[cfg(feature = "servers")]
pub fn franz_go_tests() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_FRANZ_GO") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_FRANZ_GO names a file that does not exist");
    }
    let prefix = format!("franz-go-{}-", pinned_version("FRANZ_GO_VERSION")?);
    find_newest(&prefix, "kgo.test")?
        .context("the tests of franz-go are missing: run hack/test-kafka.sh, which builds them")
}

/// Returns the client with franz-go: `$STREAMHOUSE_FRANZ_GO_CLIENT`, or that of the pinned version
/// in the cache folder.
///
/// # Errors
///
/// Fails if it is not built.
#[cfg(feature = "servers")]
pub fn franz_go_client() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_FRANZ_GO_CLIENT") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_FRANZ_GO_CLIENT names a file that does not exist");
    }
    let prefix = format!("franz-go-client-{}-", pinned_version("FRANZ_GO_VERSION")?);
    find_newest(&prefix, "sasl-client")?
        .context("the client with franz-go is missing: run hack/test-kafka.sh, which builds it")
}

/// Returns the most recently built program of this name, in the cache folders with this prefix.
#[cfg(feature = "servers")]
pub(crate) fn find_newest(prefix: &str, program: &str) -> anyhow::Result<Option<PathBuf>> {
    let folders = std::fs::read_dir(cache_folder()?).into_iter().flatten().flatten();
    let newest = folders
        .filter(|folder| folder.file_name().to_string_lossy().starts_with(prefix))
        .map(|folder| folder.path().join(program))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    Ok(newest.map(|(_, path)| path))
}

fn pinned_version(key: &str) -> anyhow::Result<&'static str> {
    let value = |line: &'static str| line.strip_prefix(key)?.strip_prefix('=');
    VERSIONS
        .lines()
        .find_map(value)
        .with_context(|| format!("no {key} in hack/versions.sh"))
}

/// Returns the folder with PostgreSQL's `initdb` and `postgres`: `$STREAMHOUSE_TEST_PG_BIN`, or the
/// given major version, which existing data needs, or else the newest version installed.
pub(crate) fn postgres(version: Option<&str>) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_TEST_PG_BIN") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_TEST_PG_BIN names a folder that does not exist");
    }
    let debian = Path::new("/usr/lib/postgresql");
    let needed = version.map(|version| debian.join(version).join("bin"));
    if let Some(folder) = needed.filter(|folder| folder.join("initdb").is_file()) {
        return Ok(folder);
    }
    let debian = std::fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let newest = debian
        .filter(|path| path.join("bin/initdb").is_file())
        .filter_map(|path| Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin"))))
        .max();
    if let Some((_, folder)) = newest {
        return Ok(folder);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|folder| folder.join("initdb").is_file())
        .context("PostgreSQL's initdb is missing: run hack/test.sh, which installs it")
}

/// Returns PgBouncer: `$STREAMHOUSE_TEST_PGBOUNCER`, or the installed one.
#[cfg(feature = "servers")]
pub(crate) fn pgbouncer() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("STREAMHOUSE_TEST_PGBOUNCER") {
        return ensure_exists(PathBuf::from(path))
            .context("$STREAMHOUSE_TEST_PGBOUNCER names a file that does not exist");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|path| path.is_file())
        .context("PgBouncer is missing: run hack/test.sh, which installs it")
}

/// Returns a binary of this workspace: in `$STREAMHOUSE_TEST_BIN_DIR`, or in the target folder of
/// the running test.
///
/// # Errors
///
/// Fails if the binary is not built.
#[cfg(feature = "servers")]
pub fn built_binary(name: &str) -> anyhow::Result<PathBuf> {
    let missing = || {
        format!(
            "the binary {name} is not built: run hack/test.sh, or cargo build --release --workspace --bins"
        )
    };
    if let Some(folder) = std::env::var_os("STREAMHOUSE_TEST_BIN_DIR") {
        return ensure_exists(Path::new(&folder).join(name)).with_context(missing);
    }
    // Tests are in target/<profile>/deps, examples in target/<profile>/examples, binaries in
    // target/<profile>.
    let test = std::env::current_exe().context("the test does not know its own path")?;
    test.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(missing)
}

fn cache_folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("STREAMHOUSE_CACHE") {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::home_dir()
        .context("set HOME, or STREAMHOUSE_CACHE to the folder hack/test.sh installs into")?;
    Ok(home.join(".cache/streamhouse"))
}

fn ensure_exists(path: PathBuf) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(path.exists(), "no {}", path.display());
    Ok(path)
}
