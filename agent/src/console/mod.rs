//! The web console: a read-only page of this agent and its JSON API, below `/console/` of the HTTP
//! port. Served only if the setting `console` is on.
//!
//! Where clients have to authenticate, so do people ([`login`]).
//!
//! Guarantees: the console changes nothing. Its load on the metadata store does not depend on the
//! number of open pages: shared responses are cached ([`ttl_cache`]). Records are read like
//! consumers read them, within the same budgets, and bounded by what a page can show. Every
//! response forbids the browser to load anything from elsewhere ([`guard`]), and none contains a
//! setting that may be secret.

mod agents;
mod api;
mod assets;
mod clients;
mod deps;
mod field;
mod groups;
mod guard;
mod login;
mod overview;
mod rates;
mod records;
mod topics;
mod ttl_cache;

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    response::Redirect,
    routing::{MethodRouter, get, post},
};
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant},
};

#[cfg(test)]
pub(crate) use self::rates::EXPOSED_METRICS;
use self::{api::ApiError, guard::ConsoleGuard, login::ConsoleLogin, ttl_cache::TtlCache};
pub use self::{deps::ConsoleDeps, login::ClientAddress};

/// Time to live of shared responses; a page refreshes every two seconds.
const CACHE_TTL: Duration = Duration::from_millis(1500);
/// Entries of each cache; one per distinct page that is open.
const CACHE_CAPACITY: usize = 64;
/// Maximum number of concurrent record reads.
const CONCURRENT_RECORD_READS: usize = 2;

/// The shared state of all request handlers.
#[derive(Debug)]
struct ConsoleState {
    deps: ConsoleDeps,
    started: Instant,
    topics: topics::TopicPageCache,
    groups: groups::GroupPageCache,
    reads: Semaphore,
}

/// Builds the console's routes. `only_local` says that the port is bound to a loopback address;
/// then only host names of this machine are accepted. `is_secure` says that the port has TLS.
pub fn router(deps: ConsoleDeps, only_local: bool, is_secure: bool) -> Router {
    let login = Arc::new(ConsoleLogin::new(
        deps.security.clone(),
        deps.clock.clone(),
        is_secure,
    ));
    let console = Arc::new(ConsoleState {
        deps,
        started: Instant::now(),
        topics: topics::TopicPageCache::default(),
        groups: groups::GroupPageCache::default(),
        reads: Semaphore::new(CONCURRENT_RECORD_READS),
    });
    let gate = Arc::new(ConsoleGuard::new(only_local));
    let api = Router::new()
        .route("/overview", get(overview::get_overview))
        .route("/topics", get(topics::list_topics))
        .route("/topic", get(topics::get_topic))
        .route("/groups", get(groups::list_groups))
        .route("/group", get(groups::get_group))
        .route("/agents", get(agents::list_agents))
        .route("/agent", get(agents::get_agent))
        .route("/clients", get(clients::list_clients))
        .route("/rates", get(rates::get_rates))
        .route("/records", get(records::get_records))
        .route("/session", get(login::get_session))
        .fallback(unknown_endpoint)
        .layer(from_fn_with_state(gate.clone(), guard::limit_calls));
    Router::new()
        .route("/", redirect_to_console())
        .route("/console", redirect_to_console())
        .route("/console/", get(assets::get_index))
        .route("/console/{asset}", get(assets::get_asset))
        .nest("/console/api", api)
        .merge(login_routes(login.clone()))
        .layer(from_fn_with_state(login, login::require_login))
        .layer(from_fn_with_state(gate, guard::secure_response))
        .with_state(console)
}

fn login_routes(login: Arc<ConsoleLogin>) -> Router<Arc<ConsoleState>> {
    Router::new()
        .route("/console/login", get(login::get_login).post(login::log_in))
        .route("/console/logout", post(login::log_out))
        .with_state(login)
}

/// Redirects to the page.
fn redirect_to_console() -> MethodRouter<Arc<ConsoleState>> {
    get(|| async { Redirect::temporary("/console/") })
}

async fn unknown_endpoint() -> ApiError {
    ApiError::not_found("the console has no such endpoint")
}

fn new_cache<K: Eq + std::hash::Hash + Clone, V>(for_long: Duration) -> TtlCache<K, V> {
    TtlCache::new(for_long, CACHE_CAPACITY)
}
