//! The agent's commands other than `run`, on real stores: the last line of `check`, and what
//! `purge` deletes and retains.

use std::{fs, path::Path, time::Duration};

use streamhouse_client::{Admin, Producer, Record, admin::NewTopic};
use streamhouse_testkit::{AgentProcess, MinIo, Postgres, ProgramOutput, wait_until};
use streamhouse_tests::TestCluster;

type TestResult = anyhow::Result<()>;

const LIMIT: Duration = Duration::from_secs(60);
/// The part of a failed container's last log lines that Kubernetes retains, in bytes.
const MAX_TERMINATION_MESSAGE: usize = 2048;

fn last_stderr_line(output: &ProgramOutput) -> &str {
    output.stderr.lines().last().unwrap_or_default()
}

#[test]
fn the_memory_of_an_agent_is_never_written_to_a_core_dump() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    let mut agents = cluster.agents;
    for agent in &mut agents {
        let limits = fs::read_to_string(format!("/proc/{}/limits", agent.process().id()))?;
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        let values: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        // With 1, no program that takes core dumps gets one either.
        assert_eq!(values[4..6], ["1", "1"], "{limits}");
    }
    Ok(())
}

#[test]
fn a_failed_check_says_last_what_is_wrong_in_one_line_without_secrets() -> TestResult {
    let (postgres, minio) = (Postgres::shared()?, MinIo::shared()?);
    let database = postgres.create_database("checked")?;
    minio.create_bucket("checked")?;
    let check = |what: &str, metadata: &str, bucket: &str, secret: &str| {
        let agent = AgentProcess::builder().metadata(metadata).minio(minio, bucket);
        agent
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .arg("check")
            .arg(what)
            .run(LIMIT)
    };
    let key = minio.secret_key();
    let sound = check("object-store", &database, "checked", key)?.ensure_success()?;
    assert_eq!(sound.stdout_text(), "object store: ok\n");
    assert_eq!(
        minio.objects("checked")?,
        Vec::<String>::new(),
        "the canary is gone"
    );

    let (host, rest) = database.rsplit_once('@').unwrap_or_default();
    let user = host.rsplit_once(':').map_or(host, |(user, _)| user);
    let wrong = format!("{user}:hunter2@{rest}");
    for (what, url, bucket, secret, named) in [
        (
            "object-store",
            &database,
            "checked",
            "hunter2hunter2",
            "credentials",
        ),
        ("object-store", &database, "absent", key, "bucket"),
        ("metadata", &database, "checked", key, "streamhouse-agent migrate"),
        ("metadata", &wrong, "checked", key, "check metadata-url"),
    ] {
        let failed = check(what, url, bucket, secret)?;
        assert_eq!(failed.status.code(), Some(1), "{what}: {}", failed.stderr);
        let last = last_stderr_line(&failed);
        assert!(last.starts_with("streamhouse-agent: "), "{what}: {last}");
        assert!(
            last.contains(named) && last.len() < MAX_TERMINATION_MESSAGE,
            "{what}: {last}"
        );
        assert!(
            !failed.stderr.contains("hunter2") && !failed.stdout_text().contains("hunter2"),
            "{what}"
        );
    }
    AgentProcess::builder()
        .metadata(&database)
        .arg("migrate")
        .run(LIMIT)?
        .ensure_success()?;
    let sound = check("metadata", &database, "absent", "hunter2hunter2")?.ensure_success()?;
    assert_eq!(
        sound.stdout_text(),
        "metadata store: ok (schema version 7)\n",
        "the object store was not checked"
    );
    let refused = check("both", &database, "checked", key)?;
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    Ok(())
}

/// Produces to two topics, one of which is rolled into segments.
async fn produce_to_two_topics(bootstrap: &str) -> TestResult {
    let admin = Admin::connect(bootstrap)?;
    admin
        .create_topic(NewTopic::new("rolled", 3).with_config("segment.ms", "100"))
        .await?;
    admin.create_topic(NewTopic::new("fresh", 2)).await?;
    let producer = Producer::builder().bootstrap(bootstrap).build().await?;
    let mut deliveries = Vec::new();
    for number in 0..600 {
        let topic = if number % 2 == 0 { "rolled" } else { "fresh" };
        deliveries.push(producer.send(Record::new(topic, format!("{number}"))).await?);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(())
}

/// Returns the keys of all objects in the cluster's bucket, including those of its neighbour.
fn object_keys(cluster: &TestCluster) -> anyhow::Result<Vec<String>> {
    cluster.minio().objects(&cluster.bucket)
}

fn run_purge(cluster: &TestCluster, arguments: &[&str]) -> anyhow::Result<ProgramOutput> {
    let agent = cluster.agent_builder().arg("purge");
    arguments
        .iter()
        .fold(agent, |agent, argument| agent.arg(*argument))
        .run(LIMIT)
}

fn a_purge_is_refused_unless_it_is_meant_and_possible(cluster: &TestCluster) -> TestResult {
    let unmeant = run_purge(cluster, &[])?;
    assert_eq!(unmeant.status.code(), Some(2), "{}", unmeant.stderr);
    assert!(last_stderr_line(&unmeant).contains("--yes"), "{}", unmeant.stderr);
    let lives = run_purge(cluster, &["--yes"])?;
    assert_eq!(lives.status.code(), Some(1), "{}", lives.stderr);
    assert!(
        last_stderr_line(&lives).contains("stop every agent"),
        "{}",
        lives.stderr
    );
    assert!(
        object_keys(cluster)?
            .iter()
            .any(|name| name.starts_with("rolled/")),
        "nothing was deleted"
    );
    Ok(())
}

/// Purges once the lease of an agent that was killed has expired.
fn purge_after_the_last_lease(cluster: &TestCluster) -> anyhow::Result<ProgramOutput> {
    wait_until("the end of the last lease", LIMIT, || {
        let tried = run_purge(cluster, &["--yes"])?;
        anyhow::ensure!(
            tried.status.success() || tried.stderr.contains("stop every agent"),
            "{}",
            tried.stderr
        );
        Ok(tried.status.success().then_some(tried))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_a_bucket_leaves_nothing_of_the_cluster_and_all_of_its_neighbour() -> TestResult {
    let mut cluster = TestCluster::start(2, &[("STREAMHOUSE_MAINTENANCE_INTERVAL", "100ms")])?;
    let neighbour = cluster.postgres().create_database("neighbour")?;
    let neighbour = || {
        let bucket = format!("s3://{}/other", cluster.bucket);
        cluster
            .agent_builder()
            .metadata(&neighbour)
            .env("STREAMHOUSE_OBJECT_STORE", bucket)
    };
    neighbour().arg("migrate").run(LIMIT)?.ensure_success()?;
    let mut other = neighbour().spawn()?;
    other.wait_ready()?;
    produce_to_two_topics(&other.bootstrap()).await?;
    other.drain()?;

    produce_to_two_topics(&cluster.bootstrap()).await?;
    wait_until("a segment", LIMIT, || {
        let names = object_keys(&cluster)?;
        Ok(names.iter().any(|name| name.starts_with("rolled/")).then_some(()))
    })?;
    a_purge_is_refused_unless_it_is_meant_and_possible(&cluster)?;

    cluster.agents[0].drain()?;
    // Killed without a drain, so its lease has to expire.
    cluster.agents[1].kill9()?;
    let done = purge_after_the_last_lease(&cluster)?;
    assert!(
        done.stdout_text()
            .contains("metadata store: dropped the schema\n"),
        "{}",
        done.stdout_text()
    );
    let left = object_keys(&cluster)?;
    assert!(
        !left.is_empty() && left.iter().all(|name| name.starts_with("other/")),
        "{left:?}"
    );
    let tables = cluster.agent_builder().arg("tables").arg("-o").arg("json");
    assert_eq!(tables.run(LIMIT)?.ensure_success()?.stdout_text(), "[]\n");
    let again = run_purge(&cluster, &["--yes"])?.ensure_success()?;
    assert!(
        again
            .stdout_text()
            .starts_with("object store: deleted 0 objects; "),
        "{}",
        again.stdout_text()
    );

    other.start_again()?;
    other.wait_ready()?;
    let topic = Admin::connect(other.bootstrap())?
        .describe_topic("rolled")
        .await?;
    let records: i64 = topic.partitions.iter().map(|p| p.high_watermark).sum();
    assert_eq!(records, 300);
    cluster
        .agent_builder()
        .arg("migrate")
        .run(LIMIT)?
        .ensure_success()?;
    cluster.agents[0].start_again()?;
    cluster.agents[0].wait_ready()?;
    assert_eq!(
        cluster.admin()?.list_topics(false).await?.len(),
        0,
        "a new, empty cluster"
    );
    Ok(())
}

/// Returns the paths of all files below a folder, without unfinished uploads of the local store.
fn list_files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // A folder may disappear meanwhile, since the purge deletes concurrently.
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder)?.display().to_string());
            }
        }
    }
    found.retain(|name| !name.starts_with(".unfinished/"));
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_is_killed_is_finished_by_the_next_one() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut agent = AgentProcess::builder().dev(folder.path()).spawn()?;
    agent.wait_ready()?;
    produce_to_two_topics(&agent.bootstrap()).await?;
    agent.drain()?;
    let objects = folder.path().join("objects");
    let old = objects.join("_wal/0000000077");
    fs::create_dir_all(&old)?;
    for sequence in 0..5000 {
        fs::write(old.join(format!("{sequence:020}")), "left by an agent that died")?;
    }
    fs::create_dir_all(objects.join("orders/0"))?;
    for foreign in ["notes.txt", "orders/0/segment_1.dat", "orders/0/picture.png"] {
        fs::write(objects.join(foreign), "not ours")?;
    }
    let purge = || {
        AgentProcess::builder()
            .dev(folder.path())
            .arg("purge")
            .arg("--yes")
    };
    let before = list_files(&objects)?.len();
    let mut killed = purge().start_command()?;
    wait_until("the first deletions", LIMIT, || {
        Ok((list_files(&objects)?.len() < before).then_some(()))
    })?;
    killed.kill9()?;
    let done = purge().run(LIMIT)?.ensure_success()?;
    assert!(
        done.stdout_text().contains(
            "; 3 that are not ours stay: notes.txt, orders/0/picture.png, orders/0/segment_1.dat\n"
        ),
        "{}",
        done.stdout_text()
    );
    assert_eq!(
        list_files(&objects)?,
        ["notes.txt", "orders/0/picture.png", "orders/0/segment_1.dat"]
    );
    let tables = AgentProcess::builder()
        .dev(folder.path())
        .arg("tables")
        .run(LIMIT)?
        .ensure_success()?;
    assert_eq!(tables.stdout_text().trim(), "");
    agent.start_again()?;
    agent.wait_ready()?;
    assert_eq!(
        Admin::connect(agent.bootstrap())?.list_topics(false).await?.len(),
        0
    );
    Ok(())
}
