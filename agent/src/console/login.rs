//! The console's login, when clients have to authenticate: a page with a form, and a cookie that no
//! script can read and no other site can send.
//!
//! Who logs in may see what the page shows if the principal may DESCRIBE the cluster, and the
//! records of topics that it may READ.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use serde::{Deserialize, Serialize};
use streamhouse_core::{Error, ErrorCode, security::AclOperation, time::Clock};

use tokio::time::{Duration, timeout};

use super::{
    ConsoleState,
    api::{ApiError, parse_query},
    assets,
};
use crate::security::{ClientAccess, ClientSecurity, SESSION_MAX_AGE};

const LOGIN: &str = "/console/login";
const COOKIE: &str = "streamhouse_console";
/// The longest form.
const MAX_FORM_BYTES: usize = 4096;
/// How long a form may take to arrive.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// What the login page needs.
const OPEN: [&str; 4] = [
    LOGIN,
    "/console/logout",
    "/console/style.css",
    "/console/icon.svg",
];

/// Knows who is logged in.
#[derive(Debug)]
pub(super) struct ConsoleLogin {
    security: Arc<ClientSecurity>,
    clock: Arc<dyn Clock>,
    /// The port has a certificate, so that the cookie need not travel as plain text.
    is_secure: bool,
}

/// The address of the client of a connection, which the server adds to its requests.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub Option<IpAddr>);

/// What the form sends.
#[derive(Deserialize)]
struct LoginForm {
    user: String,
    password: String,
}

/// Who is logged in.
#[derive(Debug, Serialize)]
pub(super) struct SessionDetails {
    /// `None` if nobody has to log in.
    user: Option<String>,
}

impl ConsoleLogin {
    pub(super) fn new(security: Arc<ClientSecurity>, clock: Arc<dyn Clock>, is_secure: bool) -> Self {
        Self {
            security,
            clock,
            is_secure,
        }
    }

    /// Returns what the sender of a request may see; `None` if it has to log in first.
    fn access(&self, request: &Request) -> Option<ClientAccess> {
        let host = client_address(request);
        if !self.security.is_authentication_required() {
            return Some(self.security.anonymous(host));
        }
        let token = session_cookie(request.headers())?;
        let identity = self.security.resume_session(token, self.clock.now_ms())?;
        Some(self.security.access(identity, host))
    }

    fn cookie(&self, value: &str, seconds: u64) -> Option<HeaderValue> {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let cookie =
            format!("{COOKIE}={value}; Path=/console; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
        HeaderValue::from_str(&cookie).ok()
    }
}

/// Wraps every request: sends who has to log in to the login page, and refuses API calls of those
/// who may not see the cluster.
pub(super) async fn require_login(
    State(login): State<Arc<ConsoleLogin>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_api = path.starts_with("/console/api/");
    if OPEN.contains(&path) {
        return next.run(request).await;
    }
    let Some(access) = login.access(&request) else {
        return match is_api {
            true => ApiError::from(Error::new(
                ErrorCode::SaslAuthenticationFailed,
                "log in first, at /console/login",
            ))
            .into_response(),
            false => Redirect::to(LOGIN).into_response(),
        };
    };
    let asks_who = path == "/console/api/session";
    if is_api
        && !asks_who
        && let Err(refused) = access.check_cluster(AclOperation::Describe)
    {
        return ApiError::from(refused).into_response();
    }
    request.extensions_mut().insert(access);
    next.run(request).await
}

/// Serves the login page.
pub(super) async fn get_login() -> Response {
    assets::get_login()
}

/// Says who is logged in.
pub(super) async fn get_session(
    State(console): State<Arc<ConsoleState>>,
    Extension(access): Extension<ClientAccess>,
) -> Json<SessionDetails> {
    let required = console.deps.security.is_authentication_required();
    Json(SessionDetails {
        user: required.then(|| access.principal().name().to_owned()),
    })
}

/// Takes the form of the login page.
pub(super) async fn log_in(State(login): State<Arc<ConsoleLogin>>, request: Request) -> Response {
    if !is_own_page(request.headers()) {
        return (StatusCode::FORBIDDEN, assets::get_login()).into_response();
    }
    let host = client_address(&request);
    let Some(form) = read_form(request.into_body()).await else {
        return refused();
    };
    let Ok(identity) = login
        .security
        .verify_password(&form.user, &form.password, host)
        .await
    else {
        return refused();
    };
    let token = login.security.begin_session(&identity, login.clock.now_ms());
    let cookie = token.and_then(|token| login.cookie(&token, SESSION_MAX_AGE.as_secs()));
    match cookie {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/console/")).into_response(),
        None => refused(),
    }
}

/// Ends the session in this browser.
pub(super) async fn log_out(State(login): State<Arc<ConsoleLogin>>, headers: HeaderMap) -> Response {
    match login.cookie("", 0).filter(|_| is_own_page(&headers)) {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(LOGIN)).into_response(),
        None => Redirect::to("/console/").into_response(),
    }
}

fn client_address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ClientAddress>()?.0
}

fn refused() -> Response {
    (StatusCode::UNAUTHORIZED, assets::get_failed_login()).into_response()
}

async fn read_form(body: Body) -> Option<LoginForm> {
    let read = timeout(FORM_TIMEOUT, to_bytes(body, MAX_FORM_BYTES));
    let bytes = read.await.ok()?.ok()?;
    // A form's body has the syntax of a query.
    let uri: Uri = format!("/?{}", std::str::from_utf8(&bytes).ok()?).parse().ok()?;
    parse_query(&uri).ok()
}

/// Returns whether a form was sent by a page of this port. Browsers say from which site it comes;
/// older ones only from which origin, which is `null` for a page that sends no referrer.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| value.to_str().unwrap_or_default())
    };
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let host = text(header::HOST.as_str()).unwrap_or_default();
    text(header::ORIGIN.as_str()).is_none_or(|origin| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority == Some(host)
    })
}

fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: axum::http::HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn only_forms_of_the_own_page_are_taken() {
        for own in [
            headers(&[
                ("host", "agent:8080"),
                ("origin", "http://agent:8080"),
                ("sec-fetch-site", "same-origin"),
            ]),
            headers(&[
                ("host", "agent:8080"),
                ("origin", "null"),
                ("sec-fetch-site", "same-origin"),
            ]),
            headers(&[("host", "agent:8080"), ("origin", "http://agent:8080")]),
            headers(&[("host", "agent:8080")]),
        ] {
            assert!(is_own_page(&own), "{own:?}");
        }
        for foreign in [
            headers(&[("host", "agent:8080"), ("origin", "http://evil.example")]),
            headers(&[("host", "agent:8080"), ("origin", "null")]),
            headers(&[("host", "agent:8080"), ("sec-fetch-site", "cross-site")]),
            headers(&[("host", "agent:8080"), ("sec-fetch-site", "same-site")]),
        ] {
            assert!(!is_own_page(&foreign), "{foreign:?}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let found = headers(&[("cookie", "a=1; streamhouse_console=x.y; b=2")]);
        assert_eq!(session_cookie(&found), Some("x.y"));
        assert_eq!(
            session_cookie(&headers(&[("cookie", "streamhouse_consoles=x")])),
            None
        );
        assert_eq!(session_cookie(&HeaderMap::new()), None);
    }
}
