//! Programs and files that tests use, which are built or downloaded into the cache.

use crate::tools::spec::{
    CachedTool, DigestInput, FolderName, GoModule, PackageFile, ToolContent, ToolSource, ToolSpec,
    ToolVariable,
};

pub(super) const MINIO: ToolSpec = ToolSpec {
    name: "minio",
    what: "MinIO, the object store",
    cached: Some(CachedTool {
        title: "MinIO {version}",
        takes: "about 3 minutes",
        folder: FolderName::Version("minio", "MINIO_VERSION"),
        contents: &[ToolContent::Program("minio")],
        source: ToolSource::GoInstall("github.com/minio/minio", "MINIO_VERSION"),
    }),
    variables: &[ToolVariable::Path("STREAMHOUSE_MINIO", "minio")],
    substitute: Some("STREAMHOUSE_MINIO"),
    ..ToolSpec::EMPTY
};

pub(super) const OTEL_COLLECTOR: ToolSpec = ToolSpec {
    name: "otel-collector",
    what: "the OpenTelemetry Collector, the receiver of traces",
    cached: Some(CachedTool {
        title: "the OpenTelemetry Collector {version}",
        takes: "about 2 minutes",
        folder: FolderName::VersionAndDigest(
            "otel-collector",
            "OTEL_COLLECTOR_VERSION",
            &[
                DigestInput::Files("hack/otel-collector/go.*"),
                DigestInput::Files("hack/otel-collector/main.go"),
            ],
        ),
        contents: &[ToolContent::Program("otel-collector")],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/otel-collector",
            pin: Some(("go.opentelemetry.io/collector/otelcol", "OTEL_COLLECTOR_VERSION")),
            packages: &["."],
            link: &[],
            then: None,
        }),
    }),
    variables: &[ToolVariable::Path("STREAMHOUSE_OTEL_COLLECTOR", "otel-collector")],
    substitute: Some("STREAMHOUSE_OTEL_COLLECTOR"),
    ..ToolSpec::EMPTY
};

pub(super) const CARGO_DENY: ToolSpec = ToolSpec {
    name: "cargo-deny",
    what: "cargo-deny, which checks licences, banned crates and sources",
    cached: Some(CachedTool {
        title: "cargo-deny {version}",
        takes: "a few minutes",
        folder: FolderName::Version("cargo-deny", "CARGO_DENY_VERSION"),
        contents: &[ToolContent::Program("bin/cargo-deny")],
        source: ToolSource::CargoInstall("cargo-deny", "CARGO_DENY_VERSION"),
    }),
    variables: &[ToolVariable::SearchPath("bin")],
    ..ToolSpec::EMPTY
};

/// A dictionary of 234,937 lines that is out of copyright.
pub(super) const WORDS: ToolSpec = ToolSpec {
    name: "words",
    what: "Webster's Second International of 1934, a text of 234,937 lines",
    cached: Some(CachedTool {
        title: "Webster's Second International of 1934 (Debian's package miscfiles; it is not installed)",
        takes: "1.3 MB",
        folder: FolderName::Fixed("web2"),
        contents: &[ToolContent::File("web2")],
        source: ToolSource::PackageFile(PackageFile {
            package: "miscfiles",
            installed: Some("/usr/share/dict/web2"),
            paths: &["usr/share/dict/web2"],
            file: "web2",
            instead: "name a text file of your own",
        }),
    }),
    variables: &[ToolVariable::Path("WORDS", "web2")],
    ..ToolSpec::EMPTY
};

pub(super) const BUSYBOX: ToolSpec = ToolSpec {
    name: "busybox",
    what: "a static busybox, the shell and tools of test pods",
    cached: Some(CachedTool {
        title: "busybox (Debian's package busybox-static; it is not installed)",
        takes: "1 MB",
        folder: FolderName::Fixed("busybox"),
        contents: &[ToolContent::Program("busybox")],
        source: ToolSource::PackageFile(PackageFile {
            package: "busybox-static",
            installed: None,
            paths: &["bin/busybox", "usr/bin/busybox"],
            file: "busybox",
            instead: "put a static busybox into the cache's folder busybox",
        }),
    }),
    variables: &[ToolVariable::Path("BUSYBOX", "busybox")],
    ..ToolSpec::EMPTY
};
