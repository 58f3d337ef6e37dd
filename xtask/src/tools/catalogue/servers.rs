//! Servers and programs that are packages of Debian and Ubuntu.

use crate::tools::spec::{AptPackage, PackageEvidence, ToolSpec};

pub(super) const PYTHON_VENV: AptPackage =
    AptPackage::with_programs(&["python3", "python3-venv"], &[PackageEvidence::PythonVenv]);

pub(super) const UTIL_LINUX: AptPackage = AptPackage::with_programs(
    &["util-linux"],
    &[PackageEvidence::Programs(&[
        "setpriv", "setsid", "unshare", "nsenter", "flock",
    ])],
);

pub(super) const IPROUTE2: AptPackage =
    AptPackage::with_programs(&["iproute2"], &[PackageEvidence::Programs(&["ip"])]);

const POSTGRESQL_SERVER: AptPackage = AptPackage::with_programs(
    &["postgresql"],
    &[
        PackageEvidence::Programs(&["initdb"]),
        PackageEvidence::File("/usr/lib/postgresql/*/bin/initdb"),
    ],
);

const PGBOUNCER: AptPackage = AptPackage::with_programs(
    &["pgbouncer"],
    &[
        PackageEvidence::Programs(&["pgbouncer"]),
        PackageEvidence::File("/usr/sbin/pgbouncer"),
    ],
)
.without_service("pgbouncer");

pub(super) const PYTHON: ToolSpec = ToolSpec {
    name: "python",
    what: "Python 3, for scripts that need no packages",
    packages: &[AptPackage::with_programs(
        &["python3"],
        &[PackageEvidence::Programs(&["python3"])],
    )],
    ..ToolSpec::EMPTY
};

pub(super) const POSTGRESQL: ToolSpec = ToolSpec {
    name: "postgresql",
    what: "PostgreSQL",
    packages: &[POSTGRESQL_SERVER],
    ..ToolSpec::EMPTY
};

pub(super) const TEST_SERVERS: ToolSpec = ToolSpec {
    name: "test-servers",
    what: "PostgreSQL, PgBouncer and Python's virtual environments, for the tests",
    packages: &[POSTGRESQL_SERVER, PGBOUNCER, PYTHON_VENV, UTIL_LINUX],
    ..ToolSpec::EMPTY
};

pub(super) const DEV_SERVERS: ToolSpec = ToolSpec {
    name: "dev-servers",
    what: "PostgreSQL, Prometheus, Alertmanager and the node exporter, for the dev stack",
    packages: &[
        POSTGRESQL_SERVER,
        AptPackage::with_programs(&["prometheus"], &[PackageEvidence::Programs(&["prometheus"])])
            .without_service("prometheus"),
        AptPackage::with_programs(
            &["prometheus-alertmanager"],
            &[PackageEvidence::Programs(&["prometheus-alertmanager"])],
        )
        .without_service("prometheus-alertmanager"),
        AptPackage::with_programs(
            &["prometheus-node-exporter"],
            &[PackageEvidence::Programs(&["prometheus-node-exporter"])],
        )
        .without_service("prometheus-node-exporter"),
        UTIL_LINUX,
        IPROUTE2,
    ],
    ..ToolSpec::EMPTY
};
