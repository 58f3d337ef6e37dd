//! Node ids of agents.

use super::fixture::{SharedStore, register_agent, snapshot};

pub async fn node_ids_stay_small_while_agents_come_and_go(store: &SharedStore) {
    let stays = register_agent(store, "stays").await;
    let mut before = register_agent(store, "pod-0").await;
    for n in 1..5 {
        // A rolling restart: the next pod registers before the previous one has ended.
        let next = register_agent(store, &format!("pod-{n}")).await;
        store.seal(before.incarnation).await.unwrap();
        assert_eq!(
            (before.node_id, next.node_id),
            if n % 2 == 1 { (2, 3) } else { (3, 2) }
        );
        before = next;
    }
    assert_eq!(register_agent(store, "stays").await.node_id, stays.node_id);
    // An agent whose id was given to another gets a free one; one whose id was not keeps it.
    let again = register_agent(store, "pod-0").await;
    assert_eq!(again.node_id, 3);
    store.seal(again.incarnation).await.unwrap();
    store.seal(before.incarnation).await.unwrap();
    assert_eq!(register_agent(store, "pod-0").await.node_id, 3);
    let agents = snapshot(store).await.agents;
    let ids: Vec<i32> = agents.iter().map(|agent| agent.node_id).collect();
    assert_eq!(ids, [1, 3]);
}
