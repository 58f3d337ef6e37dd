//! A cluster for one test, with a database of its own, a bucket of its own, and agents.

use std::sync::atomic::{AtomicU32, Ordering};

use streamhouse_client::{
    Admin,
    admin::{NewTopic, TopicInfo},
};
use streamhouse_testkit::{AgentProcess, AgentProcessBuilder, CliRunner, MinIo, Postgres};

static NEXT_CLUSTER: AtomicU32 = AtomicU32::new(0);

/// The servers that a cluster uses.
#[derive(Debug)]
enum ClusterServers {
    Shared(&'static Postgres, &'static MinIo),
    Own(Box<(Postgres, MinIo)>),
}

/// Agents and the stores behind them.
#[derive(Debug)]
pub struct TestCluster {
    /// The agents, in the order in which they were started.
    pub agents: Vec<AgentProcess>,
    /// URL of the cluster's database.
    pub database: String,
    /// Name of the cluster's bucket.
    pub bucket: String,
    settings: Vec<(String, String)>,
    servers: ClusterServers,
}

impl TestCluster {
    /// Starts a cluster on the servers shared by the tests of this process.
    pub fn start(agents: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_on(
            ClusterServers::Shared(Postgres::shared()?, MinIo::shared()?),
            agents,
            settings,
        )
    }

    /// Starts a cluster on servers of its own, for tests that stop them.
    pub fn start_with_own_servers(agents: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_on(
            ClusterServers::Own(Box::new((Postgres::start()?, MinIo::start()?))),
            agents,
            settings,
        )
    }

    fn start_on(servers: ClusterServers, agents: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let name = format!(
            "cluster-{}-{}",
            std::process::id(),
            NEXT_CLUSTER.fetch_add(1, Ordering::Relaxed)
        );
        let mut cluster = Self {
            agents: Vec::new(),
            database: String::new(),
            bucket: name.clone(),
            settings: settings
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            servers,
        };
        cluster.database = cluster.postgres().create_database(&name.replace('-', "_"))?;
        cluster.minio().create_bucket(&name)?;
        cluster
            .agent_builder()
            .arg("migrate")
            .run(std::time::Duration::from_secs(60))?
            .ensure_success()?;
        for _ in 0..agents {
            cluster.add_agent()?;
        }
        Ok(cluster)
    }

    /// Returns the PostgreSQL server of the metadata store.
    pub fn postgres(&self) -> &Postgres {
        match &self.servers {
            ClusterServers::Shared(postgres, _) => postgres,
            ClusterServers::Own(own) => &own.0,
        }
    }

    /// Returns the MinIO server of the object store.
    pub fn minio(&self) -> &MinIo {
        match &self.servers {
            ClusterServers::Shared(_, minio) => minio,
            ClusterServers::Own(own) => &own.1,
        }
    }

    /// Returns the keys of the objects that currently hold records.
    pub fn record_objects(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.minio().objects(&self.bucket)?;
        // The mark of the bucket's owner stays as long as the cluster exists.
        keys.retain(|key| !key.starts_with("_cluster/"));
        Ok(keys)
    }

    /// Returns a builder for an agent of this cluster, with leases of 3 s and flushes every 10 ms.
    pub fn agent_builder(&self) -> AgentProcessBuilder {
        let builder = AgentProcess::builder()
            .metadata(&self.database)
            .minio(self.minio(), &self.bucket)
            .env("STREAMHOUSE_LEASE_TTL", "3s")
            .env("STREAMHOUSE_FLUSH_INTERVAL", "10ms");
        self.settings
            .iter()
            .fold(builder, |builder, (key, value)| builder.env(key, value))
    }

    /// Starts another agent and waits until it is ready.
    pub fn add_agent(&mut self) -> anyhow::Result<&mut AgentProcess> {
        let mut agent = self.agent_builder().spawn()?;
        agent.wait_ready()?;
        self.agents.push(agent);
        self.agents
            .last_mut()
            .ok_or_else(|| anyhow::anyhow!("an agent was just added"))
    }

    /// Returns the bootstrap addresses: those of all agents ever started.
    pub fn bootstrap(&self) -> String {
        self.agents
            .iter()
            .map(AgentProcess::bootstrap)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Returns the addresses of all agents ever started, for Kafka clients.
    pub fn kafka_bootstrap(&self) -> String {
        let addresses = self.agents.iter().map(|agent| agent.kafka().to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Returns the end of each agent's log.
    pub fn log_tails(&mut self) -> String {
        let tails = self.agents.iter_mut().map(|agent| agent.process().log_tail());
        tails.collect::<Vec<_>>().join("\n")
    }

    /// Connects an admin client.
    pub fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Admin::connect(self.bootstrap())?)
    }

    /// Returns the command line, connected to the cluster.
    pub fn cli(&self) -> CliRunner {
        CliRunner::new(self.bootstrap())
    }

    /// Creates a topic and waits until every partition has a leader.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> anyhow::Result<TopicInfo> {
        self.create_topic_with(NewTopic::new(name, partitions)).await
    }

    /// Creates a topic with settings and waits until every partition has a leader.
    pub async fn create_topic_with(&self, topic: NewTopic) -> anyhow::Result<TopicInfo> {
        let admin = self.admin()?;
        let name = topic.name.clone();
        admin.create_topic(topic).await?;
        Ok(admin
            .wait_for_topic(&name, std::time::Duration::from_secs(30))
            .await?)
    }
}
