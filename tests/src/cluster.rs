//! A cluster for one test: a database of its own, a bucket of its own, and agents.

use std::sync::atomic::{AtomicU32, Ordering};

use streamhouse_client::{
    Admin,
    admin::{NewTopic, TopicInfo},
};
use streamhouse_testkit::{Agent, AgentBuilder, Cli, MinIo, Postgres};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where the servers of a cluster come from.
#[derive(Debug)]
enum Servers {
    Shared(&'static Postgres, &'static MinIo),
    Own(Box<(Postgres, MinIo)>),
}

/// Agents, and the stores behind them.
#[derive(Debug)]
pub struct Cluster {
    /// The agents, in the order started.
    pub agents: Vec<Agent>,
    /// The URL of its database.
    pub database: String,
    /// Its bucket.
    pub bucket: String,
    settings: Vec<(String, String)>,
    servers: Servers,
}

impl Cluster {
    /// A cluster on the servers that the tests of this process share.
    pub fn start(agents: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::on(
            Servers::Shared(Postgres::shared()?, MinIo::shared()?),
            agents,
            settings,
        )
    }

    /// A cluster on servers of its own, for tests that stop them.
    pub fn start_alone(agents: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::on(
            Servers::Own(Box::new((Postgres::start()?, MinIo::start()?))),
            agents,
            settings,
        )
    }

    fn on(servers: Servers, agents: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let name = format!(
            "cluster-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
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
            .builder()
            .arg("migrate")
            .run(std::time::Duration::from_secs(60))?
            .ok()?;
        for _ in 0..agents {
            cluster.add_agent()?;
        }
        Ok(cluster)
    }

    /// The metadata server.
    pub fn postgres(&self) -> &Postgres {
        match &self.servers {
            Servers::Shared(postgres, _) => postgres,
            Servers::Own(own) => &own.0,
        }
    }

    /// The object store.
    pub fn minio(&self) -> &MinIo {
        match &self.servers {
            Servers::Shared(_, minio) => minio,
            Servers::Own(own) => &own.1,
        }
    }

    /// The keys of the objects that hold records, now.
    pub fn record_objects(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.minio().objects(&self.bucket)?;
        // What says whose bucket it is stays as long as the cluster.
        keys.retain(|key| !key.starts_with("_cluster/"));
        Ok(keys)
    }

    /// An agent of this cluster, not started: leases of 3 s, flushes of 10 ms.
    pub fn builder(&self) -> AgentBuilder {
        let builder = Agent::builder()
            .metadata(&self.database)
            .minio(self.minio(), &self.bucket)
            .env("STREAMHOUSE_LEASE_TTL", "3s")
            .env("STREAMHOUSE_FLUSH_INTERVAL", "10ms");
        self.settings
            .iter()
            .fold(builder, |builder, (key, value)| builder.env(key, value))
    }

    /// Starts one more agent and waits until it is ready.
    pub fn add_agent(&mut self) -> anyhow::Result<&mut Agent> {
        let mut agent = self.builder().spawn()?;
        agent.wait_ready()?;
        self.agents.push(agent);
        self.agents
            .last_mut()
            .ok_or_else(|| anyhow::anyhow!("an agent was just added"))
    }

    /// What clients connect to: all agents ever started.
    pub fn bootstrap(&self) -> String {
        self.agents
            .iter()
            .map(Agent::bootstrap)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// For topics, groups, the cluster.
    pub fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Admin::connect(self.bootstrap())?)
    }

    /// The command line.
    pub fn cli(&self) -> Cli {
        Cli::new(self.bootstrap())
    }

    /// Creates a topic and waits until every partition has a leader.
    pub async fn topic(&self, name: &str, partitions: i32) -> anyhow::Result<TopicInfo> {
        self.topic_with(NewTopic::new(name, partitions)).await
    }

    /// The same with settings.
    pub async fn topic_with(&self, topic: NewTopic) -> anyhow::Result<TopicInfo> {
        let admin = self.admin()?;
        let name = topic.name.clone();
        admin.create_topic(topic).await?;
        Ok(admin
            .wait_for_topic(&name, std::time::Duration::from_secs(30))
            .await?)
    }
}
