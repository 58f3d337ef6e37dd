//! The web console: a read-only page of this agent and its JSON API, below `/console/` of the HTTP
//! port. Served only if the setting `console` is on.
//!
//! Guarantees: the console changes nothing. Its load on the metadata store does not depend on the
//! number of open pages: shared responses are cached ([`kept`]). Records are read like consumers
//! read them, within the same budgets, and bounded by what a page can show. Every response forbids
//! the browser to load anything from elsewhere ([`guard`]), and none contains a setting that may be
//! secret.

mod agents;
mod answer;
mod assets;
mod field;
mod groups;
mod guard;
mod kept;
mod overview;
mod rates;
mod records;
mod topics;

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    response::Redirect,
    routing::{MethodRouter, get},
};
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant},
};

#[cfg(test)]
pub(crate) use self::rates::COUNTED;
use self::{answer::Problem, guard::Gate, kept::Kept};
use crate::{groups::Coordinator, node::Node};

/// Time to live of shared responses; a page refreshes every two seconds.
const SHARED: Duration = Duration::from_millis(1500);
/// Entries of each cache; one per distinct page that is open.
const KEPT: usize = 64;
/// Maximum number of concurrent record reads.
const READS: usize = 2;

/// The shared state of all request handlers.
#[derive(Debug)]
struct Console {
    node: Arc<Node>,
    coordinator: Arc<Coordinator>,
    started: Instant,
    topics: topics::Shared,
    groups: groups::Shared,
    reads: Semaphore,
}

/// Builds the console's routes. `only_local` says that the port is bound to a loopback address;
/// then only host names of this machine are accepted.
pub fn router(node: Arc<Node>, coordinator: Arc<Coordinator>, only_local: bool) -> Router {
    let console = Arc::new(Console {
        node,
        coordinator,
        started: Instant::now(),
        topics: topics::Shared::default(),
        groups: groups::Shared::default(),
        reads: Semaphore::new(READS),
    });
    let gate = Arc::new(Gate::new(only_local));
    let api = Router::new()
        .route("/overview", get(overview::overview))
        .route("/topics", get(topics::list))
        .route("/topic", get(topics::one))
        .route("/groups", get(groups::list))
        .route("/group", get(groups::one))
        .route("/agents", get(agents::list))
        .route("/agent", get(agents::one))
        .route("/rates", get(rates::rates))
        .route("/records", get(records::records))
        .fallback(nothing)
        .layer(from_fn_with_state(gate.clone(), guard::bounded));
    Router::new()
        .route("/", there())
        .route("/console", there())
        .route("/console/", get(assets::page))
        .route("/console/{asset}", get(assets::asset))
        .nest("/console/api", api)
        .layer(from_fn_with_state(gate, guard::guarded))
        .with_state(console)
}

/// Redirects to the page.
fn there() -> MethodRouter<Arc<Console>> {
    get(|| async { Redirect::temporary("/console/") })
}

async fn nothing() -> Problem {
    Problem::not_found("the console has no such endpoint")
}

fn shared<K: Eq + std::hash::Hash + Clone, V>(for_long: Duration) -> Kept<K, V> {
    Kept::new(for_long, KEPT)
}
