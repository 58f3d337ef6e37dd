//! Backup and restore, with the exact commands of `docs/operate/backup-restore.md`: records
//! acknowledged before the backup are restored, later ones are not served, and new ones are.

use std::{env, fs, path::Path, process::Command, time::Duration};

use streamhouse_testkit::{
    AgentProcess, AgentProcessBuilder, CliRunner, built_binary, extract_commands, wait_until,
};
use streamhouse_tests::TestCluster;

type TestResult = anyhow::Result<()>;

const LIMIT: Duration = Duration::from_secs(60);

/// Returns the commands below a heading of the document, one string per block.
fn documented_commands(heading: &str) -> anyhow::Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/backup-restore.md");
    let text = fs::read_to_string(path)?;
    let blocks = extract_commands(&text)?.into_iter();
    Ok(blocks
        .filter(|block| block.section == heading)
        .map(|block| block.code)
        .collect())
}

/// A shell with the agent's settings and with the programs in its path.
struct AgentShell<'a> {
    folder: &'a Path,
    variables: Vec<(String, String)>,
}

impl<'a> AgentShell<'a> {
    fn new(
        folder: &'a Path,
        agent: &AgentProcessBuilder,
        programs: &[&Path],
        more: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let binary = built_binary("streamhouse-agent")?;
        let own = env::var_os("PATH").unwrap_or_default();
        let folders = programs
            .iter()
            .map(|folder| folder.to_path_buf())
            .chain(binary.parent().map(Path::to_path_buf))
            .chain(env::split_paths(&own));
        let mut variables = agent.variables().to_vec();
        let path = env::join_paths(folders)?.to_string_lossy().into_owned();
        variables.push(("PATH".to_owned(), path));
        variables.extend(
            more.iter()
                .map(|(key, value)| (key.to_string(), value.to_string())),
        );
        Ok(Self { folder, variables })
    }

    /// Runs commands and returns their output; fails if one of them fails.
    fn run(&self, commands: &str) -> anyhow::Result<String> {
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(self.folder)
            .env_clear()
            .envs(self.variables.iter().cloned());
        let output = shell.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{commands}\n{errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn produce(agent: &AgentProcess, records: [&str; 3]) -> TestResult {
    let lines = records.map(|record| format!("{record}\n")).concat();
    CliRunner::new(agent.bootstrap())
        .run_with_input(["produce", "orders"], lines)?
        .ensure_success()?;
    Ok(())
}

fn consume(agent: &AgentProcess) -> anyhow::Result<Vec<String>> {
    let everything = ["consume", "orders", "--from-beginning", "--exit-at-end"];
    let text = CliRunner::new(agent.bootstrap())
        .run(everything)?
        .ensure_success()?
        .stdout_text();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Creates a topic with one partition, whose records are soon rolled, and produces the first of
/// them.
fn create_topic_and_produce(agent: &AgentProcess) -> TestResult {
    let topic = [
        "topic",
        "create",
        "orders",
        "--partitions",
        "1",
        "--config",
        "segment.ms=100",
    ];
    CliRunner::new(agent.bootstrap()).run(topic)?.ensure_success()?;
    produce(agent, ["a1", "a2", "a3"])
}

/// Produces records after the backup, and waits until they are in a segment and the bucket is
/// marked.
fn produce_after_backup(
    agent: &AgentProcess,
    objects: impl Fn() -> anyhow::Result<Vec<String>>,
) -> TestResult {
    let mark = || {
        let marks = objects()?
            .into_iter()
            .filter(|key| key.contains("_cluster/timeline/"));
        anyhow::Ok(marks.max().unwrap_or_default())
    };
    let before = mark()?;
    produce(agent, ["b1", "b2", "b3"])?;
    wait_until("a mark of the lost records", LIMIT, || {
        Ok((mark()? > before).then_some(()))
    })
}

/// Runs the last commands once the lease contained in the backup has expired.
fn run_confirmed_recovery(shell: &AgentShell<'_>, commands: &str) -> anyhow::Result<String> {
    wait_until("the end of the lease in the backup", LIMIT, || {
        match shell.run(commands) {
            Err(error) if error.to_string().contains("lease in the backup") => Ok(None),
            ended => ended.map(Some),
        }
    })
}

fn check_recovery(dry_run: &str, recovered: &str) {
    assert!(
        dry_run.contains("not known to the metadata store") && dry_run.contains("nothing was changed"),
        "{dry_run}"
    );
    assert!(recovered.contains("agents can be started"), "{recovered}");
}

#[test]
fn a_dump_of_postgresql_is_restored_and_what_came_later_is_not_mixed_in() -> TestResult {
    let mut cluster = TestCluster::start(1, &[("STREAMHOUSE_MAINTENANCE_INTERVAL", "100ms")])?;
    let [backup, restore, confirmed] = &documented_commands("PostgreSQL")?[..] else {
        anyhow::bail!("the document has other commands");
    };
    let folder = tempfile::tempdir()?;
    let restored = cluster
        .postgres()
        .create_database(&format!("{}-restored", cluster.bucket))?;
    let shell = AgentShell::new(
        folder.path(),
        &cluster.agent_builder(),
        &[cluster.postgres().programs()],
        &[("RESTORED_DATABASE_URL", &restored)],
    )?;
    create_topic_and_produce(&cluster.agents[0])?;
    shell.run(backup)?;
    produce_after_backup(&cluster.agents[0], || cluster.minio().objects(&cluster.bucket))?;
    cluster.agents[0].drain()?;
    check_recovery(&shell.run(restore)?, &run_confirmed_recovery(&shell, confirmed)?);
    let mut agent = cluster.agent_builder().metadata(&restored).spawn()?;
    agent.wait_ready()?;
    produce(&agent, ["c1", "c2", "c3"])?;
    assert_eq!(consume(&agent)?, ["a1", "a2", "a3", "c1", "c2", "c3"]);
    Ok(())
}

/// Returns the paths of all files below a folder.
fn list_files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(list_files(&path)?);
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[test]
fn a_copy_of_the_embedded_store_is_restored_and_what_came_later_is_not_mixed_in() -> TestResult {
    let (data, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let [backup, restore, confirmed] = &documented_commands("SQLite")?[..] else {
        anyhow::bail!("the document has other commands");
    };
    let builder = AgentProcess::builder()
        .dev(data.path())
        .env("STREAMHOUSE_MAINTENANCE_INTERVAL", "100ms");
    let shell = AgentShell::new(folder.path(), &builder, &[], &[])?;
    let mut agent = builder.spawn()?;
    agent.wait_ready()?;
    create_topic_and_produce(&agent)?;
    shell.run(backup)?;
    produce_after_backup(&agent, || list_files(&data.path().join("objects")))?;
    agent.drain()?;
    check_recovery(&shell.run(restore)?, &run_confirmed_recovery(&shell, confirmed)?);
    agent.start_again()?;
    agent.wait_ready()?;
    produce(&agent, ["c1", "c2", "c3"])?;
    assert_eq!(consume(&agent)?, ["a1", "a2", "a3", "c1", "c2", "c3"]);
    Ok(())
}
