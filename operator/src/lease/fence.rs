//! Rejects write requests of an ended term. The elector opens, extends and closes the fence; a
//! client that was built with its layer checks it before each request. The check uses the clock, so
//! it also holds after this process was suspended.

use std::sync::Arc;

use axum::http::{Method, Request};
use kube::client::Body;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::filter::FilterLayer;

use super::timer::MonotonicTimer;

/// Tells whether this replica leads.
#[derive(Debug, Clone)]
pub struct TermFence {
    term_end: Arc<Mutex<Option<Instant>>>,
    timer: Arc<dyn MonotonicTimer>,
}

/// The term has ended, so the request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica is no longer the leader; the request was not sent")]
pub struct TermEndedError;

impl TermFence {
    /// Creates a closed fence.
    pub(super) fn new(timer: Arc<dyn MonotonicTimer>) -> Self {
        let until = Arc::default();
        Self {
            term_end: until,
            timer,
        }
    }

    /// Returns whether the term is running.
    pub fn is_open(&self) -> bool {
        self.term_end().is_some_and(|until| self.timer.now() < until)
    }

    /// Returns the end of the term unless it is extended; `None` without a term.
    pub fn term_end(&self) -> Option<Instant> {
        *self.term_end.lock()
    }

    /// Sets the end of the term; `None` ends it now.
    pub(super) fn set_term_end(&self, until: Option<Instant>) {
        *self.term_end.lock() = until;
    }

    /// Passes a request that only reads or that is sent within the term.
    ///
    /// # Errors
    ///
    /// Returns [`TermEndedError`] for a write request outside of a term.
    pub fn check_request<B>(&self, request: Request<B>) -> Result<Request<B>, TermEndedError> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if reads || self.is_open() {
            Ok(request)
        } else {
            Err(TermEndedError)
        }
    }

    /// Returns a layer for a client whose writes require the term. The client must not retry below
    /// this layer.
    pub fn layer(
        &self,
    ) -> FilterLayer<impl FnMut(Request<Body>) -> Result<Request<Body>, TermEndedError> + Clone + Send + use<>>
    {
        let fence = self.clone();
        FilterLayer::new(move |request| fence.check_request(request))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;

    /// A timer that is set manually.
    #[derive(Debug)]
    struct ManualTimer(Mutex<Instant>);

    #[async_trait]
    impl MonotonicTimer for ManualTimer {
        fn now(&self) -> Instant {
            *self.0.lock()
        }

        async fn sleep_until(&self, _: Instant) {}
    }

    #[test]
    fn writes_pass_within_the_term_only_and_reads_always() {
        let clock = Arc::new(ManualTimer(Mutex::new(Instant::now())));
        let fence = TermFence::new(clock.clone());
        let pass = |method: &Method| {
            let request = Request::builder().method(method.clone()).body(()).unwrap();
            fence.check_request(request).is_ok()
        };
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        assert!(pass(&Method::GET) && !writes.iter().any(pass));
        fence.set_term_end(Some(clock.now() + Duration::from_secs(10)));
        assert!(writes.iter().all(pass));
        *clock.0.lock() += Duration::from_secs(10);
        assert!(
            pass(&Method::GET) && !writes.iter().any(pass),
            "without an explicit end"
        );
    }
}
