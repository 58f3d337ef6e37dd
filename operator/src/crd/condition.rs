//! The condition types and reasons of statuses and events, each with its documentation. Used
//! wherever a status is computed.

use std::fmt::{self, Write as _};

macro_rules! documented_enum {
    ($(#[$of:meta])* $name:ident { $($variant:ident: $help:literal,)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = $help] $variant,)+ }

        impl $name {
            /// All values, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the value in the resource.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }

            /// Returns the meaning.
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

documented_enum! {
    /// Type of a condition. Its status is `True`, `False` or `Unknown`.
    ConditionType {
        Ready: "the resource is usable: a Topic or a User matches its spec; a cluster serves, because enough agents are available and every partition has a leader",
        Progressing: "a change is being rolled out",
        Degraded: "the resource is impaired; the message describes how",
        Stalled: "the spec cannot be applied until a user changes something; the message names it (the same as kstatus' condition)",
        MetadataReachable: "PostgreSQL is reachable and its schema is compatible",
        StorageReachable: "objects can be written to, read from and deleted in the bucket",
        MonitoringAvailable: "the configured monitoring objects exist",
        ListenersAvailable: "every additional listener has its addresses; absent without them and a listener for Kafka clients",
        Paused: "the operator changes nothing for this resource",
    }
}

documented_enum! {
    /// ConditionReason of a condition or event.
    ConditionReason {
        // Both kinds.
        Reconciled: "the actual state matches the spec",
        Progressing: "a change is being rolled out",
        Paused: "spec.paused is set: the operator changes nothing",
        NotPaused: "the operator reconciles this resource",
        InvalidSpec: "the spec is invalid in a way that the schema cannot detect; the message names the field",
        Deleting: "the resource is being deleted",
        DeletePending: "the deletion is waiting; the message says for what",
        Undecodable: "this version of the operator cannot read the resource, and changes nothing; the message names the field",
        InternalError: "the reconciliation failed and is retried; the message contains the error",
        // Clusters.
        AgentsReady: "enough agents are available and every partition has a leader",
        AgentsNotReady: "agents are starting",
        AgentsUnavailable: "agents cannot start or serve; the message contains the reason of the pod",
        AgentsStopped: "spec.stopped is set: no agents run",
        PartitionsLeaderless: "partitions have no leader: they can be neither written nor read until an agent takes them over",
        Healthy: "no problems were found",
        NotStalled: "nothing waits for a user",
        NotChecked: "not checked yet",
        SecretMissing: "a Secret in the spec, or a key in it, does not exist",
        InvalidSecret: "the value in a Secret is not a valid connection string, access key, CA certificate, password or list of principals",
        MetadataMigrated: "PostgreSQL is reachable and has the schema version that the agents require",
        MetadataUnreachable: "PostgreSQL does not answer or rejects the connection",
        SchemaTooNew: "the schema is of a newer version: agents of this version must not be started",
        SchemaMigrationBlocked: "the schema must be migrated, and live agents do not run on the new version; the message names them",
        VersionTooNew: "spec.version is newer than the operator: nothing is rolled out or migrated",
        VersionNotSupported: "agents of spec.version do not run on the schema of the database: nothing is rolled out or migrated",
        ClusterIdMismatch: "the database belongs to a cluster other than status.clusterId; the message contains both ids",
        StorageVerified: "a test object was written, read and deleted",
        StorageCheckRunning: "the check of the bucket is running",
        StorageUnreachable: "the check of the bucket failed; the message contains the error",
        MonitoringApplied: "all configured monitoring objects exist",
        MonitoringDisabled: "no monitoring objects are configured: there is nothing to be available",
        MonitoringApiMissing: "monitoring.coreos.com is not installed: install the Prometheus operator or disable monitoring",
        CertificatePending: "cert-manager has not issued the Secret of a certificate yet",
        MonitoringNamespaceRefused: "the operator's settings do not allow monitoring objects in this namespace",
        CertManagerMissing: "cert-manager.io is not installed: install cert-manager or set a Secret",
        ListenersReady: "every additional listener has its addresses",
        AddressPending: "a listener waits for an address; the message says which and for what",
        GatewayApiMissing: "the routes of the Gateway API that a listener needs are not installed",
        NodeAccessForbidden: "the operator may not read nodes, whose addresses a listener of type nodeport advertises",
        RouteRejected: "a Gateway does not accept the route of a listener; the message has its answer",
        NamespaceForbidden: "the operator may not manage objects in a namespace that the spec names; the message contains it",
        ObjectConflict: "an object with the same name exists and is not managed for this resource: rename or delete it",
        ApplyFailed: "the API server rejected an object; the message contains the object and the error",
        // Topics and Users.
        AlreadyExists: "the topic or user already exists and spec.adopt is Never",
        Adopted: "an existing topic or user is now managed by this resource",
        OwnershipConflict: "another resource manages this topic or user; the message names it",
        InvalidConfig: "a setting is unknown or out of bounds; the message names it, all other settings are applied",
        InvalidPartitions: "the topic has more partitions than spec.partitions, and their number cannot be reduced",
        ClusterNotFound: "the namespace has no StreamHouseCluster with this name",
        ClusterNotReady: "the cluster's metadata store cannot be used yet",
        // Events.
        Created: "the topic or user was created",
        PartitionsIncreased: "partitions were added",
        ConfigUpdated: "settings of a topic, or rights or quotas of a user, were changed",
        CredentialsUpdated: "the password of a user was changed",
        Recreated: "the topic was deleted outside of the operator and created again: it has a new id, its records are lost",
        DriftCorrected: "the topic, the user or an object was changed outside of the operator and was restored",
        Deleted: "the topic or user was deleted",
        Retained: "the resource was deleted; the topic and its records, or the user, are kept",
        DataRetained: "the cluster was deleted; its metadata and objects are kept",
        DataDeleted: "metadata and objects were deleted",
        SchemaMigrated: "the metadata schema was migrated to the version that the agents require",
    }
}

impl ConditionReason {
    /// Returns whether only a user can resolve the problem: repeating the reconciliation does not.
    pub fn needs_user(self) -> bool {
        matches!(
            self,
            Self::InvalidSpec
                | Self::Undecodable
                | Self::SecretMissing
                | Self::InvalidSecret
                | Self::SchemaTooNew
                | Self::SchemaMigrationBlocked
                | Self::VersionTooNew
                | Self::VersionNotSupported
                | Self::ClusterIdMismatch
                | Self::NamespaceForbidden
                | Self::MonitoringNamespaceRefused
                | Self::GatewayApiMissing
                | Self::NodeAccessForbidden
                | Self::RouteRejected
                | Self::ObjectConflict
        )
    }
}

/// Renders `docs/reference/conditions.md`.
pub fn reasons_markdown() -> String {
    let mut out = "# Conditions and reasons\n\nGenerated from the code; do not edit.\n\n## Conditions\n\n| type | meaning of `True` |\n|---|---|\n".to_owned();
    for condition in ConditionType::ALL {
        let _ = writeln!(out, "| `{condition}` | {} |", condition.help());
    }
    out.push_str("\n## Reasons of conditions and events\n\n| reason | meaning |\n|---|---|\n");
    for reason in ConditionReason::ALL {
        let _ = writeln!(out, "| `{reason}` | {} |", reason.help());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Reasons that require no action.
    const REASONS_WITHOUT_ACTION: &[ConditionReason] = &[
        ConditionReason::Reconciled,
        ConditionReason::Progressing,
        ConditionReason::Paused,
        ConditionReason::NotPaused,
        ConditionReason::Deleting,
        ConditionReason::AgentsReady,
        ConditionReason::AgentsStopped,
        ConditionReason::Healthy,
        ConditionReason::NotStalled,
        ConditionReason::NotChecked,
        ConditionReason::MetadataMigrated,
        ConditionReason::StorageVerified,
        ConditionReason::StorageCheckRunning,
        ConditionReason::MonitoringApplied,
        ConditionReason::MonitoringDisabled,
        ConditionReason::ListenersReady,
        ConditionReason::Adopted,
        ConditionReason::Created,
        ConditionReason::PartitionsIncreased,
        ConditionReason::ConfigUpdated,
        ConditionReason::CredentialsUpdated,
        ConditionReason::Recreated,
        ConditionReason::DriftCorrected,
        ConditionReason::Deleted,
        ConditionReason::Retained,
        ConditionReason::DataRetained,
        ConditionReason::DataDeleted,
        ConditionReason::SchemaMigrated,
    ];

    #[test]
    fn the_handbook_says_what_to_do_for_each_reason_that_wants_something() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/operator.md");
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
        let wanted = ConditionReason::ALL
            .iter()
            .filter(|reason| !REASONS_WITHOUT_ACTION.contains(reason));
        let wanted: BTreeSet<&str> = wanted.map(|reason| reason.as_str()).collect();
        assert_eq!(told, wanted);
    }
}
