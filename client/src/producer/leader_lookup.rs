//! Leaders of partitions: links to them, partitions without one, and links to departed agents.

use std::sync::Arc;

use tokio::time::Instant;

use super::{agent_link::AgentLink, dispatcher::Dispatcher};

impl Dispatcher {
    /// Handles a lane whose partition has no known leader. Returns when to check again.
    pub(super) fn request_leader(&mut self, lane: usize, now: Instant) -> Instant {
        if let Some(entry) = self.lanes.get_mut(lane) {
            entry.leaderless = true;
        }
        let (asks, again) = self.leaderless.next_lookup(now);
        if asks {
            let cache = self.shared.client.cache();
            // Keeps the topic in use while its leader is awaited.
            if let Some(entry) = self.lanes.get(lane) {
                cache.track_topic(&entry.partition.topic);
            }
            cache.request_refresh();
        }
        again
    }

    /// Handles a lane whose partition has a leader.
    pub(super) fn mark_leader_found(&mut self, lane: usize) {
        if let Some(entry) = self.lanes.get_mut(lane)
            && std::mem::take(&mut entry.leaderless)
        {
            self.leaderless.reset();
        }
    }

    pub(super) fn link_for(&mut self, uri: &Arc<str>) -> usize {
        if let Some(link) = self.by_uri.get(uri) {
            return *link;
        }
        let backoff = self.shared.client.backoff();
        let link = match self.free_links.pop() {
            Some(link) => {
                self.links[link].reassign(uri.clone(), backoff);
                link
            }
            None => {
                self.links.push(AgentLink::new(uri.clone(), backoff));
                self.links.len() - 1
            }
        };
        self.by_uri.insert(uri.clone(), link);
        link
    }

    /// Closes the streams to agents that have left the cluster, once nothing is in flight or queued
    /// there.
    pub(super) fn close_departed_links(&mut self) {
        let agents = self.shared.client.cache().agents();
        if agents.is_empty() {
            return;
        }
        let (links, free_links) = (&mut self.links, &mut self.free_links);
        // Not by the URI of a link: a free one has that of its last agent, which may be back.
        self.by_uri.retain(|uri, at| {
            let link = &mut links[*at];
            let is_idle = link.in_flight.is_empty() && link.ready_lanes.is_empty();
            let departs = is_idle && !agents.contains(uri);
            if departs {
                link.close();
                free_links.push(*at);
            }
            !departs
        });
    }
}

#[cfg(test)]
mod tests {
    use streamhouse_core::{protocol::v1, trace::OptionalTracer};
    use tokio::sync::mpsc;

    use super::{
        super::{builder::ProducerConfig, shared::ProducerShared},
        *,
    };
    use crate::{Client, metrics::MetricsRegistry};

    #[tokio::test]
    async fn links_to_agents_that_are_gone_are_used_for_others() {
        let client = Client::connect("a:1").unwrap();
        let shared = ProducerShared::new(
            client.clone(),
            ProducerConfig::default(),
            &MetricsRegistry::new(),
            OptionalTracer::default(),
        );
        let mut dispatcher = Dispatcher::new(Arc::new(shared), mpsc::channel(1).0);
        let [a, b, c] = ["http://a:1", "http://b:1", "http://c:1"].map(Arc::<str>::from);
        let (first, second) = (dispatcher.link_for(&a), dispatcher.link_for(&b));
        let agent = v1::AgentDescription {
            grpc_address: "b:1".into(),
            ..Default::default()
        };
        client.cache().merge(v1::MetadataResponse {
            agents: vec![agent],
            ..Default::default()
        });
        dispatcher.links[first].ready_lanes.push_back(0);
        dispatcher.close_departed_links();
        assert_eq!(dispatcher.link_for(&a), first, "something waits there");
        dispatcher.links[first].ready_lanes.clear();
        let stream = dispatcher.links[first].stream;
        dispatcher.close_departed_links();
        assert_eq!(dispatcher.link_for(&b), second);
        assert_eq!((dispatcher.link_for(&c), dispatcher.links.len()), (first, 2));
        assert!(
            dispatcher.links[first].stream > stream,
            "late answers of the old agent are not the new one's"
        );
    }

    #[tokio::test]
    async fn agents_that_leave_and_come_back_never_share_a_link() {
        let client = Client::connect("a:1").unwrap();
        let shared = ProducerShared::new(
            client.clone(),
            ProducerConfig::default(),
            &MetricsRegistry::new(),
            OptionalTracer::default(),
        );
        let mut dispatcher = Dispatcher::new(Arc::new(shared), mpsc::channel(1).0);
        let uris = ["http://a:1", "http://b:1", "http://c:1", "http://d:1"].map(Arc::<str>::from);
        let [a, b, ..] = &uris;
        let agents_are = |addresses: &[&str]| {
            let agents = addresses.iter().map(|address| v1::AgentDescription {
                grpc_address: (*address).into(),
                ..Default::default()
            });
            client.cache().merge(v1::MetadataResponse {
                agents: agents.collect(),
                ..Default::default()
            });
        };
        dispatcher.link_for(a);
        dispatcher.link_for(b);
        agents_are(&["x:1"]);
        dispatcher.close_departed_links();
        // One of them returns, on the link that the other one had, and leaves again.
        dispatcher.link_for(a);
        dispatcher.close_departed_links();
        let links: std::collections::HashSet<usize> =
            uris.iter().map(|uri| dispatcher.link_for(uri)).collect();
        assert_eq!(links.len(), uris.len(), "two agents have one link");
        for uri in &uris {
            let link = dispatcher.link_for(uri);
            assert_eq!(&dispatcher.links[link].uri, uri);
        }
    }
}
