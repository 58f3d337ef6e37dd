//! Verifies that `.env.dev` contains only settings that an agent accepts.

use streamhouse_core::settings::{AgentInvocation, load};

#[test]
fn an_agent_accepts_the_settings_of_the_dev_stack() {
    let variables = include_str!("../../.env.dev")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.strip_prefix("export ")
                .and_then(|rest| rest.split_once('='))
                .expect("export NAME=value")
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let invocation = load([], variables, &[]).expect("settings that are accepted");
    let AgentInvocation::Command { settings, .. } = invocation else {
        panic!("no command: {invocation:?}")
    };
    assert_eq!(settings.object_store, "s3://streamhouse-data");
    assert_eq!(
        settings.metadata_url.expose(),
        "postgres://streamhouse:streamhouse_dev@localhost:5432/streamhouse_metadata",
        "the database that the documentation names"
    );
}
