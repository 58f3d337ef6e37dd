//! Virtual environments with Python packages.

use super::servers::{PYTHON_VENV, UTIL_LINUX};
use crate::tools::spec::{
    AptPackage, CachedTool, DigestInput, FolderName, PackageEvidence, PythonPackages, ToolContent,
    ToolSource, ToolSpec, ToolVariable,
};

pub(super) const KAFKA: ToolSpec = ToolSpec {
    name: "kafka-python",
    what: "kafka-python, confluent-kafka and aiokafka: Kafka clients, which tests run and compare with",
    packages: &[PYTHON_VENV],
    cached: Some(CachedTool {
        title: "the Python packages of core/tests/requirements.txt",
        takes: "about half a minute",
        folder: FolderName::Digest(
            "venv-kafka",
            &[
                DigestInput::PythonVersion,
                DigestInput::Files("core/tests/requirements.txt"),
            ],
        ),
        contents: &[ToolContent::Marker("ready")],
        source: ToolSource::PythonPackages(PythonPackages {
            requirements: "core/tests/requirements.txt",
            minimum: None,
            complete: false,
        }),
    }),
    variables: &[ToolVariable::Path("STREAMHOUSE_PYTHON", "bin/python")],
    substitute: Some("STREAMHOUSE_PYTHON"),
    ..ToolSpec::EMPTY
};

pub(super) const DASHBOARD: ToolSpec = ToolSpec {
    name: "dashboard-python",
    what: "Python packages that check the dashboard, the alert rules and the health check for Argo CD",
    packages: &[PYTHON_VENV],
    cached: Some(CachedTool {
        title: "the Python packages of tests/observability/requirements.txt",
        takes: "about half a minute",
        folder: FolderName::Digest(
            "venv-grafana",
            &[
                DigestInput::PythonVersion,
                DigestInput::Files("tests/observability/requirements.txt"),
            ],
        ),
        contents: &[ToolContent::Marker("ready")],
        source: ToolSource::PythonPackages(PythonPackages {
            requirements: "tests/observability/requirements.txt",
            minimum: Some((3, 11)),
            complete: false,
        }),
    }),
    variables: &[ToolVariable::Path("PYTHON", "bin/python")],
    ..ToolSpec::EMPTY
};

pub(super) const BROWSER: ToolSpec = ToolSpec {
    name: "browser",
    what: "Chromium, the font of the pictures, and the Python packages that test the console with them",
    packages: &[
        AptPackage::with_programs(&["chromium"], &[PackageEvidence::Programs(&["chromium"])]),
        AptPackage::with_programs(
            &["fonts-inter"],
            &[PackageEvidence::File("/usr/share/fonts/*/inter/*")],
        ),
        PYTHON_VENV,
        UTIL_LINUX,
    ],
    cached: Some(CachedTool {
        title: "the Python packages of tests/console/requirements.txt",
        takes: "about half a minute",
        folder: FolderName::Digest(
            "venv-console",
            &[
                DigestInput::PythonVersion,
                DigestInput::Files("tests/console/requirements.txt"),
            ],
        ),
        contents: &[ToolContent::Marker("ready")],
        source: ToolSource::PythonPackages(PythonPackages {
            requirements: "tests/console/requirements.txt",
            minimum: None,
            complete: false,
        }),
    }),
    variables: &[ToolVariable::Path("PYTHON", "bin/python")],
    ..ToolSpec::EMPTY
};
