//! Decides whether the metadata schema is migrated, and to which version, without side effects.
//! Used by `metadata` before it opens the store.
//!
//! Agents are replaced first, and the schema is migrated afterwards: never beyond what the agents
//! of the spec and the live ones run on. What only the user can change is refused with what to do;
//! it does not keep the store from being opened, so that topics and the status go on.

use std::cmp::Ordering;

use streamhouse_metadata::{LiveAgent, SchemaWindow, compare_releases, list_agents, release_window};

use crate::crd::{ConditionReason, MAX_SCHEMA_VERSION_ANNOTATION};

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchemaFacts<'a> {
    /// Version of the schema; 0 for an empty database.
    pub(super) found: i64,
    /// The versions that the operator runs on.
    pub(super) window: SchemaWindow,
    /// The operator's release.
    pub(super) operator: &'a str,
    /// Release of the agents in the spec; `None` for an image whose release is not known.
    pub(super) release: Option<&'a str>,
    /// The version beyond which the user does not want to migrate yet.
    pub(super) limit: Option<i64>,
    /// The agents that hold their lease.
    pub(super) live_agents: &'a [LiveAgent],
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SchemaPlan {
    /// Nothing has to be migrated.
    UpToDate,
    /// The schema is migrated to this version now.
    Migrate(i64),
    /// The schema in force serves until the agents in the message have been replaced.
    Wait(String),
    /// Nothing is migrated before the user has changed something.
    Refused(SchemaRefusal),
}

/// Why nothing is migrated or rolled out, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaRefusal {
    pub(super) reason: ConditionReason,
    pub(super) message: String,
    /// Whether agents of the spec would not run on the schema in force: then they must not replace
    /// those that serve.
    pub(super) hold_agents: bool,
}

/// Decides about the migration. The schema is not newer than the operator.
pub(super) fn plan_schema(facts: &SchemaFacts<'_>) -> SchemaPlan {
    let known = match spec_window(facts) {
        Ok(known) => known,
        Err(refusal) => return SchemaPlan::Refused(refusal),
    };
    let (found, window) = (facts.found, facts.window);
    let agents = known.unwrap_or(window);
    // The oldest version on which the operator and the agents of the spec run, and the newest.
    let min = window.min.max(agents.min);
    let max = window.max.min(agents.max);
    let target = facts.limit.map_or(max, |limit| limit.clamp(min, max));
    if found >= target {
        return SchemaPlan::UpToDate;
    }
    let old = |version| {
        let live = facts.live_agents.iter();
        live.filter(move |agent| !agent.runs_on(version))
    };
    // As far as the live agents allow.
    if let Some(to) = (found + 1..=target).rev().find(|to| old(*to).next().is_none()) {
        return SchemaPlan::Migrate(to);
    }
    let next = min.max(found + 1);
    let named = list_agents(&old(next).collect::<Vec<_>>());
    if found >= min {
        return SchemaPlan::Wait(format!(
            "version {next} follows when these agents have been replaced: {named}"
        ));
    }
    let hold_agents = known.is_some_and(|known| found < known.min);
    let message = if !hold_agents {
        format!(
            "the metadata schema has version {found}, this operator ({}) runs on {window}, and live agents are not known to \
             run on version {next}: {named}; they are replaced by those of the spec, which must be of a release that runs \
             on both",
            facts.operator
        )
    } else {
        format!(
            "the metadata schema has version {found}, the agents of the spec run on {agents}, and live agents are not known \
             to run on version {next}: {named}; set spec.version to a release between theirs and this one first, or stop the \
             agents with spec.stopped"
        )
    };
    SchemaPlan::Refused(SchemaRefusal {
        reason: ConditionReason::SchemaMigrationBlocked,
        message,
        hold_agents,
    })
}

/// Returns the versions that the agents of a release run on; `None` if the release is not known.
/// Depends on no database, so that a refusal is reported also while it does not answer.
///
/// # Errors
///
/// Returns a refusal of a release that this operator cannot run.
pub(super) fn check_release(
    operator: &str,
    window: SchemaWindow,
    release: Option<&str>,
) -> Result<Option<SchemaWindow>, SchemaRefusal> {
    let Some(release) = release else {
        return Ok(None);
    };
    match compare_releases(release, operator) {
        // The tag of a build of one's own.
        None => return Ok(None),
        Some(Ordering::Equal) => return Ok(Some(window)),
        Some(Ordering::Greater) => {
            return Err(SchemaRefusal {
                reason: ConditionReason::VersionTooNew,
                hold_agents: true,
                message: format!(
                    "spec.version {release} is newer than this operator, {operator}: upgrade the operator first, or set \
                     spec.version to {operator} or an older release; nothing is rolled out or migrated"
                ),
            });
        }
        Some(Ordering::Less) => {}
    }
    let Some(agents) = release_window(release) else {
        let why = format!("is older than the oldest release that this operator ({operator}) knows");
        return Err(not_supported(operator, release, &why));
    };
    if agents.max < window.min || agents.min > window.max {
        let why = format!("runs on metadata schema {agents}, this operator ({operator}) on {window}");
        return Err(not_supported(operator, release, &why));
    }
    Ok(Some(agents))
}

fn not_supported(operator: &str, release: &str, why: &str) -> SchemaRefusal {
    SchemaRefusal {
        reason: ConditionReason::VersionNotSupported,
        hold_agents: true,
        message: format!(
            "spec.version {release} {why}: set spec.version to a newer release, at most {operator}; nothing is rolled \
             out or migrated"
        ),
    }
}

/// Returns the versions that the agents of the spec run on, which include that of the database or
/// newer ones; `None` if their release is not known.
fn spec_window(facts: &SchemaFacts<'_>) -> Result<Option<SchemaWindow>, SchemaRefusal> {
    let agents = check_release(facts.operator, facts.window, facts.release)?;
    match (facts.release, agents) {
        (Some(release), Some(agents)) if facts.found > agents.max => {
            let why = format!(
                "runs on metadata schema {agents}, and the database was migrated to version {} and cannot be migrated back \
                 (restore a backup of the metadata to go back)",
                facts.found
            );
            Err(not_supported(facts.operator, release, &why))
        }
        _ => Ok(agents),
    }
}

/// Returns the limit in the annotation's value. One that is no number holds nothing up: the spec is
/// not invalid because of it.
pub(super) fn parse_limit(annotation: Option<&str>) -> Option<i64> {
    let text = annotation?;
    let limit = text.trim().parse().ok();
    if limit.is_none() {
        tracing::warn!(
            "the annotation {MAX_SCHEMA_VERSION_ANNOTATION}: {text:?} is not a number and is ignored"
        );
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator of a later release than this one, which runs on two versions.
    const LATER: SchemaWindow = SchemaWindow { min: 7, max: 8 };
    const FIRST: SchemaWindow = SchemaWindow { min: 5, max: 7 };
    const OLD: SchemaWindow = SchemaWindow { min: 5, max: 5 };

    fn agent(agent_id: &str, window: Option<SchemaWindow>) -> LiveAgent {
        LiveAgent {
            agent_id: agent_id.to_owned(),
            version: "0.1.0".to_owned(),
            window,
        }
    }

    fn facts(found: i64, window: SchemaWindow, live_agents: &[LiveAgent]) -> SchemaFacts<'_> {
        SchemaFacts {
            found,
            window,
            operator: "0.3.0",
            release: Some("0.3.0"),
            limit: None,
            live_agents,
        }
    }

    #[track_caller]
    fn assert_refused(plan: SchemaPlan, reason: ConditionReason, hold_agents: bool, says: &[&str]) {
        match plan {
            SchemaPlan::Refused(refusal) => {
                assert_eq!((refusal.reason, refusal.hold_agents), (reason, hold_agents));
                for part in says {
                    assert!(refusal.message.contains(part), "{}", refusal.message);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_database_gets_the_newest_schema_that_the_agents_run_on() {
        assert_eq!(plan_schema(&facts(0, LATER, &[])), SchemaPlan::Migrate(8));
        let pinned = SchemaFacts {
            release: Some("0.1.0"),
            ..facts(0, LATER, &[])
        };
        assert_eq!(plan_schema(&pinned), SchemaPlan::Migrate(7));
    }

    #[test]
    fn a_pinned_version_keeps_its_schema() {
        let live = [agent("a-0", Some(FIRST))];
        let pinned = SchemaFacts {
            release: Some("0.2.5"),
            ..facts(7, LATER, &live)
        };
        assert_eq!(plan_schema(&pinned), SchemaPlan::UpToDate);
    }

    #[test]
    fn old_agents_are_waited_for_while_the_schema_in_force_serves() {
        let live = [agent("a-0", Some(LATER)), agent("a-1", Some(FIRST))];
        let SchemaPlan::Wait(message) = plan_schema(&facts(7, LATER, &live)) else {
            panic!("it does not wait")
        };
        assert!(message.contains("version 8") && message.contains("a-1") && !message.contains("a-0"));
        assert_eq!(plan_schema(&facts(7, LATER, &live[..1])), SchemaPlan::Migrate(8));
        assert_eq!(plan_schema(&facts(8, LATER, &live[..1])), SchemaPlan::UpToDate);
    }

    #[test]
    fn several_steps_are_made_one_by_one() {
        let window = SchemaWindow { min: 5, max: 8 };
        let live = [agent("a-0", Some(FIRST))];
        assert_eq!(plan_schema(&facts(5, window, &live)), SchemaPlan::Migrate(7));
        assert!(matches!(
            plan_schema(&facts(7, window, &live)),
            SchemaPlan::Wait(_)
        ));
    }

    #[test]
    fn agents_too_old_for_the_operator_block_the_migration() {
        let live = [agent("a-0", Some(OLD))];
        // Agents of a release in between may replace them.
        let between = SchemaFacts {
            release: Some("0.1.0"),
            ..facts(5, LATER, &live)
        };
        assert_refused(
            plan_schema(&between),
            ConditionReason::SchemaMigrationBlocked,
            false,
            &["a-0", "version 5", "0.3.0"],
        );
        // Those of the operator's release may not.
        assert_refused(
            plan_schema(&facts(5, LATER, &live)),
            ConditionReason::SchemaMigrationBlocked,
            true,
            &["a-0", "spec.version", "spec.stopped"],
        );
        assert_eq!(
            plan_schema(&facts(5, LATER, &[])),
            SchemaPlan::Migrate(8),
            "none of them is left"
        );
    }

    #[test]
    fn a_version_newer_than_the_operator_is_refused() {
        let newer = SchemaFacts {
            release: Some("0.4.0"),
            ..facts(7, LATER, &[])
        };
        assert_refused(
            plan_schema(&newer),
            ConditionReason::VersionTooNew,
            true,
            &["0.4.0", "0.3.0", "upgrade the operator"],
        );
    }

    #[test]
    fn a_version_that_cannot_run_on_the_schema_is_refused() {
        let unknown = SchemaFacts {
            release: Some("0.0.9"),
            ..facts(7, LATER, &[])
        };
        assert_refused(
            plan_schema(&unknown),
            ConditionReason::VersionNotSupported,
            true,
            &["0.0.9", "older than the oldest release"],
        );
        let rolled_back = SchemaFacts {
            release: Some("0.1.0"),
            ..facts(8, LATER, &[])
        };
        assert_refused(
            plan_schema(&rolled_back),
            ConditionReason::VersionNotSupported,
            true,
            &["migrated to version 8", "restore a backup"],
        );
        let far = SchemaFacts {
            release: Some("0.1.0"),
            ..facts(8, SchemaWindow { min: 8, max: 9 }, &[])
        };
        assert_refused(
            plan_schema(&far),
            ConditionReason::VersionNotSupported,
            true,
            &["versions 5 to 7", "versions 8 to 9"],
        );
    }

    #[test]
    fn a_release_is_judged_without_a_database() {
        let judge = |release| check_release("0.3.0", LATER, Some(release));
        for (release, reason) in [
            ("0.4.0", ConditionReason::VersionTooNew),
            ("0.0.9", ConditionReason::VersionNotSupported),
        ] {
            let refusal = judge(release).unwrap_err();
            assert_eq!((refusal.reason, refusal.hold_agents), (reason, true), "{release}");
        }
        assert_eq!(judge("0.3.0"), Ok(Some(LATER)));
        assert_eq!(judge("0.1.0"), Ok(Some(FIRST)));
        assert_eq!(judge("main-3f2a1c0"), Ok(None));
        assert_eq!(check_release("0.3.0", LATER, None), Ok(None));
    }

    #[test]
    fn an_image_of_ones_own_goes_by_the_live_agents() {
        let live = [agent("a-0", None), agent("a-1", Some(LATER))];
        for release in [None, Some("main-3f2a1c0")] {
            let custom = |live_agents| SchemaFacts {
                release,
                ..facts(7, LATER, live_agents)
            };
            assert!(matches!(plan_schema(&custom(&live)), SchemaPlan::Wait(_)));
            assert_eq!(plan_schema(&custom(&live[1..])), SchemaPlan::Migrate(8));
            assert_eq!(plan_schema(&custom(&[])), SchemaPlan::Migrate(8));
        }
    }

    #[test]
    fn the_user_can_hold_a_migration_up() {
        let held = |limit| SchemaFacts {
            limit: Some(limit),
            ..facts(7, LATER, &[])
        };
        assert_eq!(plan_schema(&held(7)), SchemaPlan::UpToDate);
        assert_eq!(plan_schema(&held(8)), SchemaPlan::Migrate(8));
        // It cannot ask for a schema that the operator does not run on.
        let low = SchemaFacts { found: 5, ..held(1) };
        assert_eq!(plan_schema(&low), SchemaPlan::Migrate(7));
        assert_eq!(parse_limit(Some(" 6 ")), Some(6));
        assert_eq!((parse_limit(None), parse_limit(Some("six"))), (None, None));
    }
}
