//! Lets no writing request of an ended term out. The elector opens, extends and closes it; a client of the API server that was built with
//! its layer asks it before each request. It looks at the clock itself, so it holds even when this process has not run for a while.

use std::sync::Arc;

use axum::http::{Method, Request};
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::filter::FilterLayer;

use super::timer::Timer;

/// Whether this replica leads.
#[derive(Debug, Clone)]
pub struct Fence {
    until: Arc<Mutex<Option<Instant>>>,
    timer: Arc<dyn Timer>,
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead any more; nothing was sent")]
pub struct TermOver;

impl Fence {
    /// Closed, until the elector opens it.
    pub(super) fn new(timer: Arc<dyn Timer>) -> Self {
        let until = Arc::default();
        Self { until, timer }
    }

    /// Whether the term goes on now.
    pub fn holds(&self) -> bool {
        self.until().is_some_and(|until| self.timer.now() < until)
    }

    /// When the term ends, unless it is extended; `None` without a term.
    pub fn until(&self) -> Option<Instant> {
        *self.until.lock()
    }

    /// The term goes on until then; `None` ends it.
    pub(super) fn set(&self, until: Option<Instant>) {
        *self.until.lock() = until;
    }

    /// Lets a request pass that only reads, or that is sent within the term.
    pub fn pass<B>(&self, request: Request<B>) -> Result<Request<B>, TermOver> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if reads || self.holds() {
            Ok(request)
        } else {
            Err(TermOver)
        }
    }

    /// A layer for a client whose writes need the term. The client must not try again by itself below the layer.
    pub fn layer(
        &self,
    ) -> FilterLayer<impl FnMut(Request<Body>) -> Result<Request<Body>, TermOver> + Clone + Send + use<>>
    {
        let fence = self.clone();
        FilterLayer::new(move |request| fence.pass(request))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;

    /// A clock that is set by hand.
    #[derive(Debug)]
    struct Hand(Mutex<Instant>);

    #[async_trait]
    impl Timer for Hand {
        fn now(&self) -> Instant {
            *self.0.lock()
        }

        async fn sleep_until(&self, _: Instant) {}
    }

    #[test]
    fn writes_pass_within_the_term_only_and_reads_always() {
        let clock = Arc::new(Hand(Mutex::new(Instant::now())));
        let fence = Fence::new(clock.clone());
        let pass = |method: &Method| {
            let request = Request::builder().method(method.clone()).body(()).unwrap();
            fence.pass(request).is_ok()
        };
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        assert!(pass(&Method::GET) && !writes.iter().any(pass));
        fence.set(Some(clock.now() + Duration::from_secs(10)));
        assert!(writes.iter().all(pass));
        *clock.0.lock() += Duration::from_secs(10);
        assert!(
            pass(&Method::GET) && !writes.iter().any(pass),
            "without anybody closing it"
        );
    }
}
