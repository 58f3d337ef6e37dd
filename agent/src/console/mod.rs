//! The web console: a read-only page of this agent, and the JSON that it shows, below `/console/` of the HTTP port. Served only when
//! the setting `console` says so; otherwise nothing here is reachable.
//!
//! Guarantees: it changes nothing. It asks the metadata store little, however many pages are open: what they share is
//! [`kept`] for a moment. Records are read as consumers read them, within the same budgets, and never more than a page can
//! show. Every answer forbids the browser to take anything from elsewhere ([`guard`]), and no answer holds a setting that may be secret.

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

/// How long what many pages share is kept: a page asks every two seconds.
const SHARED: Duration = Duration::from_millis(1500);
/// Different things kept at once; each is a page that somebody looks at.
const KEPT: usize = 64;
/// Records are read for so many pages at once.
const READS: usize = 2;

/// What the console shows from.
#[derive(Debug)]
struct Console {
    node: Arc<Node>,
    coordinator: Arc<Coordinator>,
    started: Instant,
    topics: topics::Shared,
    groups: groups::Shared,
    reads: Semaphore,
}

/// The console's pages and data. With `only_local` the port is bound to this machine alone, and only names of it are answered.
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

/// Leads to the page.
fn there() -> MethodRouter<Arc<Console>> {
    get(|| async { Redirect::temporary("/console/") })
}

async fn nothing() -> Problem {
    Problem::not_found("there is no such page of the console")
}

fn shared<K: Eq + std::hash::Hash + Clone, V>(for_long: Duration) -> Kept<K, V> {
    Kept::new(for_long, KEPT)
}
