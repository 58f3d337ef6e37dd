//! The methods of [`MetadataStore`](crate::MetadataStore) as a list, for stores that wrap another
//! one.

/// Passes the signatures of all methods of [`MetadataStore`](crate::MetadataStore) to the macro
/// `$callback`, in the form `name(argument: Type, …) -> Type;` with the type inside the method's
/// [`Result`](crate::Result).
///
/// A wrapper implements the methods that it only forwards from this list, and leaves out those that
/// it writes itself with `except [name, …]`. Such a wrapper does not compile while the list lacks a
/// method of the trait, or while a method is neither left out nor listed.
///
/// The callback must implement the trait in one expansion: `async_trait` does not expand macros
/// inside of an implementation.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use streamhouse_metadata::{MetadataStore, Result, for_each_metadata_method};
///
/// /// A store whose connections stay open, because others use them too.
/// #[derive(Debug)]
/// struct BorrowedStore(Arc<dyn MetadataStore>);
///
/// macro_rules! forward_methods {
///     ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
///         #[async_trait]
///         impl MetadataStore for BorrowedStore {
///             $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
///                 self.0.$name($($argument),*).await
///             })*
///
///             async fn close(&self) -> Result<()> {
///                 Ok(())
///             }
///         }
///     };
/// }
/// for_each_metadata_method!(forward_methods, except [close]);
/// ```
///
/// A method that is left out must be written:
///
/// ```compile_fail,E0046
/// # use async_trait::async_trait;
/// # use streamhouse_metadata::{MetadataStore, Result, for_each_metadata_method};
/// # #[derive(Debug)]
/// # struct BorrowedStore(std::sync::Arc<dyn MetadataStore>);
/// macro_rules! forward_methods {
///     ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
///         #[async_trait]
///         impl MetadataStore for BorrowedStore {
///             $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
///                 self.0.$name($($argument),*).await
///             })*
///         }
///     };
/// }
/// for_each_metadata_method!(forward_methods, except [close]);
/// ```
#[macro_export]
macro_rules! for_each_metadata_method {
    ($callback:ident) => {
        $crate::for_each_metadata_method!($callback, except []);
    };
    ($callback:ident, except [$($own:ident),*]) => {
        $crate::filter_metadata_methods! {
            ($) $callback [$($own)*]
            ping() -> ();
            close() -> ();
            cluster_state() -> $crate::ClusterState;
            advance_timeline() -> $crate::Timeline;
            report_divergence() -> ();
            recover(recovery: &$crate::RecoveryRequest) -> $crate::RecoveryOutcome;
            unknown_objects(keys: &[String]) -> Vec<String>;
            register_agent(registration: &$crate::AgentRegistration) -> $crate::AgentIdentity;
            renew(incarnation: $crate::Incarnation) -> $crate::LeaseRenewal;
            drain(incarnation: $crate::Incarnation) -> ();
            seal(incarnation: $crate::Incarnation) -> ();
            seal_if_silent(incarnation: $crate::Incarnation, silence: $crate::SilenceThreshold) -> bool;
            snapshot(known: Option<u64>) -> Option<$crate::ClusterSnapshot>;
            move_leases(moves: &[$crate::LeaseMove]) -> Vec<$crate::LeaseMoveOutcome>;
            create_topic(topic: &$crate::NewTopic) -> $crate::TopicEntry;
            alter_topic(name: &str, change: &$crate::TopicChange) -> $crate::TopicEntry;
            delete_topic(name: &str) -> ();
            claim_topic(name: &str, owner: &$crate::TopicOwner) -> $crate::TopicOwner;
            release_topic(name: &str, uid: &str) -> bool;
            topics_overview() -> $crate::TopicsOverview;
            allocate_producer_id() -> i64;
            commit_object(commit: &$crate::ObjectCommit) -> $crate::CommitOutcome;
            read_log(partition: $crate::PartitionUid, from: $crate::LogPosition, limit: usize)
                -> $crate::LogView;
            active_producers(partition: $crate::PartitionUid, limit: usize) -> Vec<$crate::ActiveProducer>;
            bounds(partitions: &[$crate::PartitionUid]) -> Vec<($crate::PartitionUid, $crate::LogBounds)>;
            begin_segment(lease: $crate::Lease, base_offset: i64) -> $crate::SegmentIntent;
            reassign_segment_key(lease: $crate::Lease, base_offset: i64, taken: &str)
                -> $crate::SegmentIntent;
            finish_segment(lease: $crate::Lease, segment: &$crate::NewSegment) -> ();
            advance_log_start(lease: $crate::Lease, log_start: i64) -> i64;
            collect_garbage(policy: &$crate::GarbagePolicy, limit: usize) -> $crate::GarbageBatch;
            confirm_deleted(keys: &[String]) -> ();
            orphans(incarnation: $crate::Incarnation, sequences: &[u64]) -> Vec<u64>;
            mark_swept(incarnation: $crate::Incarnation) -> ();
            groups(which: &$crate::GroupQuery) -> Vec<$crate::PersistedGroup>;
            put_group(lease: $crate::Lease, group: &$crate::GroupWrite) -> ();
            commit_offsets(lease: $crate::Lease, commit: &$crate::OffsetCommit)
                -> Vec<$crate::OffsetCommitOutcome>;
            delete_offsets(lease: $crate::Lease, deletion: &$crate::OffsetDeletion) -> ();
            group_lags(slots: &[i32], limit: usize) -> Vec<$crate::GroupLag>;
            fetch_offsets(group_id: &str) -> Vec<$crate::CommittedOffset>;
            load_security() -> $crate::SecuritySnapshot;
            agent_secret() -> $crate::AgentSecret;
            alter_scram_credentials(alteration: &$crate::ScramAlteration)
                -> std::collections::BTreeMap<String, $crate::ScramAlterationOutcome>;
            create_acls(rows: &[$crate::AclRow]) -> Vec<bool>;
            delete_acls(rows: &[$crate::AclRow]) -> Vec<bool>;
            alter_client_quotas(alteration: &$crate::QuotaAlteration) -> ();
            apply_user(owner: &str, user: &$crate::UserRows, unowned: $crate::UnownedRows) -> bool;
            delete_user(owner: &str) -> bool;
            find_owned_user(owner: &str) -> Option<$crate::UserRows>;
            list_owned_users(prefix: &str) -> std::collections::BTreeMap<String, $crate::UserRows>;
        }
    };
}

/// Drops the methods in brackets from the list and passes the others to the callback.
///
/// A macro cannot compare two names, but it can define a macro with a rule for each of them. `$d`
/// is a dollar sign, for the variables of that inner macro.
#[doc(hidden)]
#[macro_export]
macro_rules! filter_metadata_methods {
    (($d:tt) $callback:ident [$($own:ident)*] $($methods:tt)*) => {
        macro_rules! drop_own_methods {
            ([$d($d kept:tt)*]) => {
                $callback! { $d($d kept)* }
            };
            $(([$d($d kept:tt)*] $own $d arguments:tt -> $d answer:ty; $d($d rest:tt)*) => {
                drop_own_methods! { [$d($d kept)*] $d($d rest)* }
            };)*
            ([$d($d kept:tt)*] $d name:ident $d arguments:tt -> $d answer:ty; $d($d rest:tt)*) => {
                drop_own_methods! {
                    [$d($d kept)* $d name $d arguments -> $d answer;] $d($d rest)*
                }
            };
        }
        drop_own_methods! { [] $($methods)* }
    };
}
