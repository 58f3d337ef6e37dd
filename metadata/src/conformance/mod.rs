//! The requirements on every metadata store, as scenarios that are plain functions of a fresh
//! store.
//!
//! The tests of each backend run all of them through
//! [`conformance_suite!`](crate::conformance_suite); a wrapper around a store can be tested with
//! them too. A scenario names the invariant of the data path that it checks.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests, though not only cfg(test)

pub mod agent_secret;
pub mod commit;
pub mod fixture;
pub mod garbage;
pub mod groups;
pub mod leases;
pub mod log;
pub mod node_ids;
pub mod owners;
pub mod races;
pub mod security;
pub mod segments;
pub mod timeline;
pub mod topics;
pub mod users;

/// Calls the macro `$run` with every scenario: `module::name, module::name, ...`.
#[macro_export]
macro_rules! conformance_suite {
    ($run:ident) => {
        $run! {
            leases::a_store_begins_with_a_cluster_id_and_the_coordinator_slots,
            leases::a_node_id_is_stable_and_an_incarnation_is_new,
            node_ids::node_ids_stay_small_while_agents_come_and_go,
            leases::a_second_life_seals_the_first,
            leases::renewing_seals_those_whose_lease_expired,
            leases::an_expired_lease_that_nobody_took_can_be_renewed,
            leases::a_sealed_life_can_do_nothing_more,
            leases::sealing_twice_or_a_stranger_is_harmless,
            leases::a_life_is_sealed_early_only_while_its_lease_is_not_renewed,
            leases::the_version_rises_with_every_change_and_only_then,
            leases::a_draining_agent_keeps_its_leases_and_gets_no_new_ones,
            leases::a_lease_moves_only_from_the_holder_and_epoch_named,
            leases::a_sealed_holder_counts_as_nobody,
            leases::a_move_tells_the_bounds_of_the_log,
            leases::a_zombie_cannot_write_after_another_took_the_lease,
            leases::a_released_partition_takes_no_writes,
            topics::partitions_are_spread_over_the_live_agents,
            topics::without_agents_nobody_leads,
            topics::a_name_is_unique,
            topics::a_topic_grows_and_never_shrinks,
            topics::settings_are_set_and_reset,
            topics::the_internal_topic_is_not_for_users,
            topics::a_deleted_topic_takes_no_commits_and_no_reads,
            topics::a_deleted_name_is_free_at_once_and_gets_a_folder_of_its_own,
            topics::a_topic_needs_a_partition,
            owners::a_name_is_claimed_by_one_until_it_lets_go,
            owners::an_owner_is_known_by_its_uid,
            owners::a_claim_stands_without_its_topic,
            owners::an_overview_adds_up_each_topic,
            owners::an_overview_leaves_out_a_topic_that_was_deleted,
            owners::an_overview_of_many_topics_is_whole,
            commit::offsets_follow_each_other_over_objects_and_holders,
            commit::a_fenced_partition_leaves_the_others_alone,
            commit::the_same_object_commits_once,
            commit::an_outcome_can_be_asked_for_after_the_seal,
            commit::a_producers_retry_is_stored_once_also_after_a_failover,
            commit::a_refused_batch_takes_no_offset_and_splits_the_range,
            commit::a_producers_gap_and_old_epoch_are_refused,
            commit::an_object_without_an_accepted_batch_is_garbage,
            commit::many_partitions_commit_in_one_object,
            log::a_read_begins_with_the_span_that_holds_the_offset,
            log::a_read_by_time_begins_with_the_first_span_that_reaches_it,
            log::a_read_by_the_greatest_time_begins_with_the_first_span_that_has_it,
            log::producers_are_listed_with_their_last_sequence,
            log::a_read_outside_the_log_is_empty_or_begins_at_its_start,
            log::bounds_leave_out_what_is_gone,
            log::producer_ids_are_never_given_twice,
            log::a_span_tells_when_it_was_stored,
            log::the_time_is_told,
            segments::a_segment_replaces_its_ranges,
            segments::a_segment_continues_the_last_and_ends_with_a_range,
            segments::an_intent_left_behind_is_inherited,
            segments::a_segment_needs_its_own_intent,
            segments::finishing_again_is_harmless,
            segments::an_object_is_garbage_with_its_last_range,
            segments::the_log_start_moves_forward_and_stays_in_the_log,
            segments::what_lies_before_the_log_start_is_queued_for_deletion,
            segments::an_intent_behind_the_log_start_is_dropped_and_its_object_deleted,
            segments::a_range_that_holds_the_log_start_can_still_be_rolled,
            timeline::the_timeline_rises_with_each_life_and_when_asked,
            timeline::a_cluster_is_in_use_with_its_first_topic,
            timeline::a_divergence_refuses_new_lives_until_a_recovery,
            timeline::a_recovery_waits_for_no_agent,
            timeline::a_recovery_goes_on_beyond_what_the_bucket_has,
            timeline::objects_that_no_row_names_are_told,
            timeline::a_key_that_is_taken_is_left_alone,
            timeline::only_the_holder_leaves_a_key,
            garbage::objects_wait_for_their_grace,
            garbage::an_object_that_a_row_references_is_never_garbage,
            garbage::a_deleted_topic_leaves_nothing,
            garbage::a_large_topic_is_purged_in_steps,
            garbage::orphans_are_sought_below_sealed_lives_only,
            garbage::a_deleted_object_is_never_committed_again,
            garbage::idle_producers_are_forgotten,
            garbage::offsets_expire_in_groups_without_members_only,
            garbage::an_ended_life_is_forgotten_when_nothing_is_left_of_it,
            garbage::a_segment_whose_intent_was_dropped_is_deleted_again_when_its_writers_life_is_over,
            garbage::a_segment_that_an_heir_finished_is_deleted_again_only_when_the_log_let_go_of_it,
            groups::groups_are_found_by_slot_and_by_id,
            groups::a_group_is_written_by_the_holder_of_its_slot_only,
            groups::a_generation_never_goes_back,
            groups::a_member_of_an_old_generation_cannot_commit,
            groups::a_consumer_without_membership_commits,
            groups::offsets_keep_their_metadata_and_the_last_counts,
            groups::offsets_of_unknown_partitions_are_refused_one_by_one,
            groups::offsets_are_deleted_one_by_one,
            groups::a_deleted_group_leaves_no_offsets,
            groups::lag_is_told_of_groups_whose_members_are_gone,
            groups::offsets_of_a_deleted_topic_never_speak_for_a_new_one,
            races::racing_moves_have_one_winner,
            races::racing_creations_have_one_winner,
            races::racing_claims_have_one_winner,
            races::a_claim_is_held_by_one_at_a_time,
            races::racing_commits_of_one_object_commit_once,
            races::agents_commit_to_their_partitions_at_the_same_time,
            races::a_seal_waits_for_commits_and_lets_none_in_after,
            races::segments_of_shared_objects_roll_at_the_same_time,
            races::many_agents_tidy_at_the_same_time,
            races::agents_register_at_the_same_time,
        }
    };
}

/// Calls the macro `$run` with every scenario of users, ACLs and quotas, which the oldest schema of
/// the window does not have; otherwise as [`conformance_suite!`](crate::conformance_suite).
#[macro_export]
macro_rules! security_conformance_suite {
    ($run:ident) => {
        $run! {
            security::nobody_may_do_anything_at_first,
            agent_secret::agents_share_one_secret,
            security::credentials_are_stored_changed_and_deleted,
            security::a_user_is_altered_as_a_whole_or_not_at_all,
            security::acls_are_created_once_and_deleted_exactly,
            security::quotas_tell_a_default_from_a_name_and_from_nothing,
            security::malformed_rows_change_nothing,
            security::the_longest_names_are_stored,
            security::one_call_changes_a_bounded_number_of_rows,
            security::racing_changes_each_raise_the_version_once,
            security::racing_changes_of_one_row_have_one_winner,
            security::a_snapshot_is_of_one_moment,
            users::an_owner_has_exactly_the_rows_that_it_applied_last,
            users::a_user_has_one_owner,
            users::an_owner_that_renames_its_user_frees_the_old_name,
            users::rows_made_by_hand_are_adopted_only_on_demand,
            users::a_quota_has_one_owner,
            users::an_entry_of_several_owners_is_in_force_until_the_last_has_gone,
            users::changes_by_hand_are_a_drift_of_the_owner,
            users::owners_are_listed_by_prefix,
            users::malformed_users_change_nothing,
            users::racing_owners_of_one_user_have_one_winner,
            users::racing_changes_leave_no_row_of_nobody,
        }
    };
}
