//! The conditions and reasons that statuses and events speak in: one list each, documented from here. Called by whoever writes a status.

use std::fmt::{self, Write as _};

macro_rules! words {
    ($(#[$of:meta])* $name:ident { $($variant:ident: $help:literal,)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = $help] $variant,)+ }

        impl $name {
            /// All of them, in the order of the documents.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it stands in a resource.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }

            /// What it means.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What is said of a resource. `True`, `False` or `Unknown`.
    ConditionType {
        Ready: "the resource is as its spec says and serves",
        Progressing: "a change is on its way",
        Degraded: "something works less well than it should; the message says what",
        MetadataReachable: "PostgreSQL answers and its schema fits",
        StorageReachable: "the bucket takes, gives and deletes objects as needed",
        MonitoringAvailable: "the monitoring objects that were asked for are in place",
        Paused: "the operator writes nothing for this resource",
    }
}

words! {
    /// Why a condition is what it is.
    Reason {
        // Both kinds
        Reconciled: "everything is as the spec says",
        Progressing: "a change is on its way",
        Paused: "spec.paused is set: nothing is written",
        NotPaused: "the operator looks after this resource",
        InvalidSpec: "the spec contradicts itself in a way no schema can see; the message names the field",
        Deleting: "the resource is being deleted",
        DeletePending: "the deletion waits for something; the message says for what",
        InternalError: "the operator failed; the message says how, and it tries again",
        // Clusters
        AgentsReady: "enough agents are ready",
        AgentsNotReady: "agents are still starting",
        AgentsUnavailable: "agents cannot start or cannot serve; the message has the pod's own reason",
        AgentsStopped: "spec.stopped is set: no agent runs",
        AllHealthy: "nothing is wrong",
        SecretMissing: "a Secret or a key in it that the spec names is not there",
        ConnectionInvalid: "what a Secret holds cannot be used as a connection string or an access key",
        MetadataMigrated: "PostgreSQL answers, and its schema is the one the agents need",
        MetadataUnreachable: "PostgreSQL does not answer or refuses",
        SchemaTooNew: "the schema was made by a newer version: agents of this version must not run",
        OtherCluster: "the database is not that of the cluster in status.clusterId; the message has both ids",
        StorageVerified: "a canary object was put, read and deleted",
        StorageChecking: "the check of the bucket is running",
        StorageUnreachable: "the check of the bucket failed; the message has its reason",
        MonitoringApplied: "all monitoring objects asked for are in place",
        MonitoringDisabled: "no monitoring object is asked for",
        MonitoringApiMissing: "monitoring.coreos.com is not installed: install the Prometheus operator, or switch monitoring off",
        CertManagerMissing: "cert-manager.io is not installed: install cert-manager, or name a Secret",
        NotOurs: "an object of that name exists and is not managed for this resource: rename or delete it",
        ApplyFailed: "the API server refused an object; the message says which and why",
        // Topics
        AlreadyExists: "the topic exists and adopt is Never",
        Adopted: "a topic that existed is now managed by this resource",
        ResourceConflict: "another resource manages this topic; the message names it",
        InvalidConfig: "a setting is unknown or out of bounds; the message names it, the others are in force",
        InvalidPartitions: "the topic has more partitions than the spec says: they can only grow",
        ClusterNotFound: "there is no cluster of that name in this namespace",
        ClusterNotReady: "the cluster's metadata store cannot be used yet",
        // Events
        Created: "the topic was created",
        PartitionsIncreased: "partitions were added",
        ConfigUpdated: "settings were changed",
        Recreated: "the topic was gone and was created anew: its id has changed, its records are lost",
        DriftCorrected: "somebody changed the topic or an object by hand; it was put back",
        Deleted: "the topic was deleted",
        Retained: "the resource is gone; the topic and its records are kept",
        DataRetained: "the cluster is gone; metadata and objects are kept",
        DataDeleted: "metadata and objects were deleted",
        SchemaMigrated: "the metadata schema was brought to the version that the agents need",
    }
}

/// The reference for `docs/reference/conditions.md`.
pub fn reasons_markdown() -> String {
    let mut out = "# Conditions and reasons\n\nMade from the code; do not edit.\n\n## Conditions\n\n| type | means, when `True` |\n|---|---|\n".to_owned();
    for condition in ConditionType::ALL {
        let _ = writeln!(out, "| `{condition}` | {} |", condition.help());
    }
    out.push_str("\n## Reasons of conditions and events\n\n| reason | means |\n|---|---|\n");
    for reason in Reason::ALL {
        let _ = writeln!(out, "| `{reason}` | {} |", reason.help());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Reasons that say that all is well, that wait for nobody, or that tell of something that has happened.
    const CALM: &[Reason] = &[
        Reason::Reconciled,
        Reason::Progressing,
        Reason::Paused,
        Reason::NotPaused,
        Reason::Deleting,
        Reason::AgentsReady,
        Reason::AgentsStopped,
        Reason::AllHealthy,
        Reason::MetadataMigrated,
        Reason::StorageVerified,
        Reason::StorageChecking,
        Reason::MonitoringApplied,
        Reason::MonitoringDisabled,
        Reason::Adopted,
        Reason::Created,
        Reason::PartitionsIncreased,
        Reason::ConfigUpdated,
        Reason::Recreated,
        Reason::DriftCorrected,
        Reason::Deleted,
        Reason::Retained,
        Reason::DataRetained,
        Reason::DataDeleted,
        Reason::SchemaMigrated,
    ];

    #[test]
    fn the_handbook_says_what_to_do_for_each_reason_that_wants_something() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operator.md");
        let text = fs::read_to_string(path).unwrap();
        let table = text
            .split("| reason | do |")
            .nth(1)
            .unwrap()
            .split("\n\n")
            .next()
            .unwrap();
        let rows = table
            .lines()
            .filter_map(|row| row.strip_prefix("| `")?.split('`').next());
        let told: BTreeSet<&str> = rows.collect();
        let wanted = Reason::ALL.iter().filter(|reason| !CALM.contains(reason));
        let wanted: BTreeSet<&str> = wanted.map(|reason| reason.as_str()).collect();
        assert_eq!(told, wanted);
    }
}
