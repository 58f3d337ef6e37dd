//! The console's middleware: restricts who may ask, limits concurrency and duration of API calls,
//! and sets the security headers of every response.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use streamhouse_core::{Error, ErrorCode};
use tokio::{
    sync::Semaphore,
    time::{Duration, timeout},
};

use super::api::ApiError;

/// Maximum number of concurrent API calls. A page sends one after the other.
const MAX_CONCURRENT_CALLS: usize = 16;
/// Maximum duration of one API call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Tell browsers to load nothing from elsewhere, to run only the console's own files, to refuse
/// framing, and to send no referrer.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
        form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];
/// Responses hold records, and the page itself changes with the agent's version.
const CACHE_CONTROL_VALUE: &str = "no-store";

/// The state of the middleware.
#[derive(Debug)]
pub(super) struct ConsoleGuard {
    calls: Semaphore,
    only_local: bool,
}

impl ConsoleGuard {
    /// Creates the guard. With `only_local` the `Host` header must name this machine.
    pub(super) fn new(only_local: bool) -> Self {
        Self {
            calls: Semaphore::new(MAX_CONCURRENT_CALLS),
            only_local,
        }
    }
}

/// Wraps every request: refuses requests for foreign host names, which a page of another origin
/// could use to reach this port (DNS rebinding), and sets the security headers.
pub(super) async fn secure_response(
    State(gate): State<Arc<ConsoleGuard>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = if gate.only_local && !has_local_host(request.headers()) {
        forbidden_response(
            "this console is served on this machine only; open it by localhost or a loopback address",
        )
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static(CACHE_CONTROL_VALUE),
    );
    response
}

/// Wraps API requests: refuses those from pages of other sites, and limits concurrency and
/// duration.
pub(super) async fn limit_calls(
    State(gate): State<Arc<ConsoleGuard>>,
    request: Request,
    next: Next,
) -> Response {
    let site = request.headers().get("sec-fetch-site");
    if site.is_some_and(|site| site == "cross-site" || site == "same-site") {
        return forbidden_response("the console's API accepts requests of its own page only");
    }
    let Ok(_call) = gate.calls.try_acquire() else {
        let error = Error::new(
            ErrorCode::ResourceExhausted,
            "the console is busy; try again in a moment",
        );
        return ApiError::from(error).into_response();
    };
    timeout(CALL_TIMEOUT, next.run(request))
        .await
        .unwrap_or_else(|_| {
            let message = format!(
                "the request took longer than {} s; the metadata store or the object store may be slow",
                CALL_TIMEOUT.as_secs()
            );
            ApiError::from(Error::new(ErrorCode::RequestTimedOut, message)).into_response()
        })
}

fn forbidden_response(message: &'static str) -> Response {
    ApiError::new(
        StatusCode::FORBIDDEN,
        Error::new(ErrorCode::PolicyViolation, message),
    )
    .into_response()
}

/// Returns whether the requested host names this machine. Clients without a `Host` header are not
/// browsers and pass.
fn has_local_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| is_local_host(authority.host()))
}

fn is_local_host(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for local in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "a.localhost",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "localhost.:80",
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(local))]);
            assert!(has_local_host(&headers), "{local}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "192.168.0.7:8080",
            "[fd00::1]",
            "0.0.0.0",
            "localhost@evil.example",
            "",
            "a b",
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(foreign))]);
            assert!(!has_local_host(&headers), "{foreign}");
        }
        assert!(has_local_host(&HeaderMap::new()));
    }
}
