//! `streamhouse cluster`: shows the agents of the cluster, what they lead, and the stores.

use streamhouse_client::admin::ClusterInfo;

use crate::{
    command_error::CommandResult,
    context::CommandContext,
    output::{TextTable, print_result},
};

/// Runs `cluster`.
pub(crate) async fn run(context: &CommandContext) -> CommandResult {
    let cluster = context.admin().describe_cluster().await?;
    print_result(context.format, &cluster, || render_cluster(&cluster))
}

fn render_cluster(cluster: &ClusterInfo) -> String {
    let mut agents = TextTable::new([
        "AGENT", "NODE", "GRPC", "HTTP", "KAFKA", "ZONE", "VERSION", "LEASES",
    ]);
    for agent in &cluster.agents {
        agents.add_row([
            agent.agent_id.clone(),
            agent.node_id.to_string(),
            agent.grpc_address.clone(),
            agent.http_address.clone(),
            agent.kafka_address.clone(),
            agent.zone.clone(),
            agent.version.clone(),
            agent.leases.to_string(),
        ]);
    }
    let leases: u32 = cluster.agents.iter().map(|agent| agent.leases).sum();
    format!(
        "cluster {}  version {}\n{} topics, {} partitions, {leases} of them led\nmetadata  {}\nobjects   {}\n\n{agents}",
        cluster.cluster_id,
        cluster.version,
        cluster.topics,
        cluster.partitions,
        cluster.metadata_store,
        cluster.object_store,
    )
}

#[cfg(test)]
mod tests {
    use streamhouse_client::admin::AgentInfo;

    use super::*;

    #[test]
    fn the_description_sums_up_the_agents() {
        let agent = |id: &str, leases| {
            let mut agent = AgentInfo::default();
            agent.agent_id = id.into();
            agent.node_id = 1;
            agent.grpc_address = "h:50051".into();
            agent.http_address = "h:8080".into();
            agent.version = "0.1.0".into();
            agent.leases = leases;
            agent
        };
        let mut cluster = ClusterInfo::default();
        cluster.cluster_id = "c".into();
        cluster.agents = vec![agent("a-1", 7), agent("a-2", 5)];
        cluster.topics = 3;
        cluster.partitions = 12;
        cluster.version = "0.1.0".into();
        cluster.metadata_store = "sqlite:x".into();
        cluster.object_store = "file:y".into();
        let text = render_cluster(&cluster);
        assert!(text.contains("3 topics, 12 partitions, 12 of them led"), "{text}");
        assert!(text.contains("a-2"), "{text}");
    }
}
