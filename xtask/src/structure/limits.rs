//! What the rules hold: numbers, directions, and what is known to break them and may only become
//! less.

/// Lines of a file outside its tests.
pub(crate) const FILE_LINES: usize = 500;
/// Lines of a file that is all tests.
pub(crate) const TEST_FILE_LINES: usize = 1000;
/// Lines of a file that should be enough.
pub(crate) const AIM: usize = 300;
/// Columns of a line that is all comment; `None` while the comments are not wrapped yet.
pub(crate) const COMMENT_COLUMNS: Option<usize> = Some(100);

/// A crate's folder and those crates of the workspace that it may depend on outside its tests.
pub(crate) const WORKSPACE_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("metadata", &["core"]),
    ("agent", &["core", "metadata"]),
    ("client", &["core"]),
    ("cli", &["client", "core"]),
    ("operator", &["core", "metadata"]),
    ("tests", &["*"]),
    ("tests/testkit", &[]),
    ("xtask", &["testkit"]),
];

/// A crate of the outside world (`*` at its end: all whose names begin so), and the only one that
/// may depend on it.
pub(crate) const ONE_PLACE: &[(&str, &str)] = &[
    ("aws-*", "agent"),
    ("sqlx", "metadata"),
    ("kube", "operator"),
    ("k8s-openapi", "operator"),
];

/// A crate's folder and its levels, from the top down: a module may import those of the levels
/// below its own.
pub(crate) type CrateLevels = (&'static str, &'static [&'static [&'static str]]);
pub(crate) const LEVELS: &[CrateLevels] = &[
    (
        "agent",
        &[
            &["main"],
            &[
                "backup", "check", "inspect", "migrate", "purge", "recover", "user",
            ],
            &["assembly"],
            &["server"],
            &["kafka"],
            &["console"],
            &["gauges", "leases"],
            &["produce", "fetch", "forward", "groups", "topics", "maintenance"],
            &["log"],
            &["session"],
            &["security"],
            &["directory", "ownership", "partition"],
            &["segment"],
            &["store"],
            &[
                "failpoint",
                "deferred_metadata",
                "listeners",
                "memory",
                "tls",
                "traces",
            ],
            &["health"],
            &["metrics"],
            &["invariant", "process"],
        ],
    ),
    (
        "cli",
        &[
            &["arguments"],
            &["command_line"],
            &[
                "acl",
                "bench",
                "cluster",
                "completions",
                "consume",
                "docs",
                "group",
                "produce",
                "topic",
                "user",
            ],
            &["undecodable"],
            &["context"],
            &["password"],
            &["codec", "values", "warnings"],
            &["output"],
            &["command_error"],
            &["output_format", "signals", "terminal"],
        ],
    ),
    (
        "client",
        &[
            &["dead_letters"],
            &["admin", "consumer", "producer"],
            &["queries"],
            &["client"],
            &["reachability", "metadata_cache", "metrics", "traces"],
            &["connection", "retry"],
            &["config"],
            &["error"],
        ],
    ),
    (
        "core",
        &[
            &[
                "backoff",
                "batch",
                "consumer_protocol",
                "core_dumps",
                "kafka",
                "protocol",
                "settings",
                "topic_config",
                "trace",
            ],
            &["security"],
            &["error", "ids", "listen", "murmur2", "time"],
        ],
    ),
    (
        "metadata",
        &[
            &["conformance", "inspect"],
            &["connect"],
            &["postgres", "sqlite"],
            &[
                "commit_outcome",
                "commit_plan",
                "garbage_step",
                "leases",
                "security_plan",
                "segment_plan",
            ],
            &["method_list", "producers", "rows", "schema", "transaction"],
            &["error", "keys", "options", "types"],
            &["schema_window"],
        ],
    ),
    (
        "operator",
        &[
            &["main"],
            &["diff"],
            &["controllers", "run"],
            &["cli"],
            &["settings"],
            &[
                "cluster",
                "connect",
                "server",
                "smoke_test",
                "api_discovery",
                "topic",
                "user",
            ],
            &["finalizer", "undecodable"],
            &["api_calls"],
            &["context"],
            &[
                "apis",
                "backoff",
                "conditions",
                "events",
                "lease",
                "metadata_stores",
            ],
            &["health", "metrics"],
            &["crd"],
        ],
    ),
    ("workspace-hack", &[]),
    (
        "xtask",
        &[
            &["commands", "public_api", "test_command"],
            &["demos", "docs_commands", "kind", "real_input", "sbom"],
            &["dev_stack"],
            &["agent_run", "features", "structure", "target_cache", "tools"],
            &["programs"],
            &["repository", "terminal"],
        ],
    ),
];

/// A crate, a module and another that it imports against the levels.
pub(crate) type KnownImport = (&'static str, &'static str, &'static str);
pub(crate) const KNOWN_LEVEL_BREACHES: &[KnownImport] = &[];

/// Files that import each other in a circle, in the order of their paths.
pub(crate) const KNOWN_CIRCLES: &[&[&str]] = &[];

/// How many of a crate's type names may be of one word, and how many may stand for several types.
#[derive(Debug)]
pub(crate) struct NameLimits {
    pub(crate) krate: &'static str,
    pub(crate) one_word_percent: usize,
    pub(crate) repeated: usize,
}
pub(crate) const NAMES: &[NameLimits] = &[
    NameLimits {
        krate: "agent",
        one_word_percent: 1,
        repeated: 0,
    },
    NameLimits {
        krate: "cli",
        one_word_percent: 3,
        repeated: 0,
    },
    NameLimits {
        krate: "client",
        one_word_percent: 8,
        repeated: 0,
    },
    NameLimits {
        krate: "core",
        one_word_percent: 12,
        repeated: 0,
    },
    NameLimits {
        krate: "metadata",
        one_word_percent: 4,
        repeated: 0,
    },
    NameLimits {
        krate: "operator",
        one_word_percent: 3,
        repeated: 0,
    },
    NameLimits {
        krate: "xtask",
        one_word_percent: 0,
        repeated: 0,
    },
];
