//! Every client with every mechanism of authentication on every listener: with the right password,
//! a wrong one, as an unknown user, and with a password that is changed while the client runs.
//!
//! Prints a table and compares each of its cells with what is expected. Each client has agents of
//! its own, since agents refuse an address after some failures. Everything is on 127.0.0.1, and
//! ends with its value.

mod agents;
mod clients;
mod grpc;
mod table;

use std::path::Path;

use anyhow::Context as _;
use streamhouse_testkit::create_temp_folder;

use self::{
    agents::{AuthenticatedAgent, PASSWORD},
    clients::{ClientRun, Credentials},
    table::{AuthenticationCell, AuthenticationRow, Listener, Mechanism, TestedClient},
};
use crate::subject::TestSubjects;

pub(crate) fn matrix(_: &TestSubjects) -> anyhow::Result<()> {
    let rows = std::thread::scope(|scope| {
        let threads: Vec<_> = TestedClient::ALL
            .iter()
            .map(|client| scope.spawn(|| rows_of(*client)))
            .collect();
        let mut rows = Vec::new();
        for (thread, client) in threads.into_iter().zip(TestedClient::ALL) {
            let of_client = thread
                .join()
                .map_err(|_| anyhow::anyhow!("{} panicked", client.name()))?;
            rows.extend(of_client.with_context(|| client.name())?);
        }
        anyhow::Ok(rows)
    })?;
    println!("{}", table::to_text(&rows));
    let unexpected: Vec<String> = rows.iter().filter_map(AuthenticationRow::difference).collect();
    anyhow::ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    Ok(())
}

fn rows_of(client: TestedClient) -> anyhow::Result<Vec<AuthenticationRow>> {
    let mut rows = Vec::new();
    for listener in client.listeners() {
        let folder = create_temp_folder("streamhouse-authentication-")?;
        let agent = AuthenticatedAgent::start(folder.path(), listener.has_tls())?;
        for mechanism in listener.mechanisms() {
            let row = row(client, *mechanism, *listener, &agent, folder.path());
            rows.push(row.with_context(|| format!("{} on {}", mechanism.name(), listener.name()))?);
        }
    }
    Ok(rows)
}

fn row(
    client: TestedClient,
    mechanism: Mechanism,
    listener: Listener,
    agent: &AuthenticatedAgent,
    folder: &Path,
) -> anyhow::Result<AuthenticationRow> {
    let user = format!("alice-{}", mechanism.name());
    agent.put_user(&user, PASSWORD)?;
    let start = |user: &str, password: &str| {
        let credentials = Credentials::new(user, password);
        let run = ClientRun::start(client, agent, mechanism, &credentials, folder);
        run.context("the client did not start")
    };
    let refusal = |user: &str, password: &str| {
        let before = agent.failures(mechanism)?;
        let cell = start(user, password)?.wait_for_either()?;
        // Not every client says why it failed.
        if cell == AuthenticationCell::Refused {
            agent.wait_for_failure(mechanism, before)?;
        }
        Ok::<_, anyhow::Error>(cell)
    };
    let wrong = refusal(&user, "wrong").context("wrong password")?;
    let unknown = refusal("mallory", PASSWORD).context("unknown user")?;
    let mut running = start(&user, PASSWORD)?;
    let right = running.wait_for_either().context("right password")?;
    let mut changed = AuthenticationCell::NotTried;
    if right == AuthenticationCell::Accepted {
        let before = agent.failures(mechanism)?;
        agent.put_user(&user, "another password")?;
        changed = running.wait_for_refusal().context("changed password")?;
        if listener.is_kafka() {
            agent.wait_for_failure(mechanism, before)?;
        }
    }
    Ok(AuthenticationRow {
        client,
        mechanism,
        listener,
        cells: [right, wrong, unknown, changed],
    })
}
