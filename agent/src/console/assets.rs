//! The console's static files, embedded in the binary: no build step, and nothing is loaded from
//! elsewhere.

use axum::{
    extract::Path,
    http::header,
    response::{IntoResponse, Response},
};

use super::api::ApiError;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const PAGE: &str = include_str!("assets/index.html");
const LOGIN_PAGE: &str = include_str!("assets/login.html");
/// Replaces [`PROBLEM_PLACE`] after a login that failed.
const LOGIN_PROBLEM: &str =
    r#"<p class="problem" role="alert">Wrong user or password, or too many attempts.</p>"#;
const PROBLEM_PLACE: &str = "<!-- problem -->";

/// Expands to [`ASSETS`]: name, content type and contents of each file.
macro_rules! assets {
    ($($name:literal $kind:ident,)*) => {
        const ASSETS: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("assets/", $name))),)*];
    };
}

assets! {
    "style.css" CSS,
    "icon.svg" SVG,
    "app.js" JS,
    "dom.js" JS,
    "format.js" JS,
    "rates.js" JS,
    "parts.js" JS,
    "overview.js" JS,
    "topics.js" JS,
    "records.js" JS,
    "groups.js" JS,
    "agents.js" JS,
    "clients.js" JS,
}

/// Serves the page.
pub(super) async fn get_index() -> Response {
    asset_response(HTML, PAGE)
}

/// Returns the login page.
pub(super) fn get_login() -> Response {
    asset_response(HTML, LOGIN_PAGE)
}

/// Returns the login page after a login that failed. It does not say which part was wrong.
pub(super) fn get_failed_login() -> Response {
    let page = LOGIN_PAGE.replace(PROBLEM_PLACE, LOGIN_PROBLEM);
    (
        [(header::CONTENT_TYPE, HTML), (header::CONNECTION, "close")],
        page,
    )
        .into_response()
}

/// Serves one of the page's files.
pub(super) async fn get_asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(asset, _, _)| *asset == name) {
        Some((_, kind, contents)) => asset_response(kind, contents),
        None => ApiError::not_found("the console has no file of this name").into_response(),
    }
}

/// Closes the connection after each file: browsers open several connections for them, and the port
/// allows only a limited number.
fn asset_response(kind: &'static str, contents: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CONNECTION, "close")];
    (headers, contents).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches in a test what the content security policy would block in the browser, and names of
    /// files that do not exist.
    #[test]
    fn the_page_needs_nothing_but_these_files() {
        let named = |contents: &str, before: &str| -> Vec<String> {
            let parts = contents.split(before).skip(1);
            parts
                .map(|rest| rest.split(['"', '\'']).next().unwrap_or_default().to_owned())
                .collect()
        };
        let served = |name: &String| ASSETS.iter().any(|(asset, _, _)| asset == name);
        let files = [named(PAGE, "src=\""), named(PAGE, "href=\"")].concat();
        assert!(files.len() >= 3, "{files:?}");
        for file in files.iter().filter(|file| !file.starts_with('#')) {
            assert!(served(file), "index.html names {file}");
        }
        for (name, kind, contents) in ASSETS {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!contents.contains(forbidden), "{name} has {forbidden}");
            }
            let elsewhere = contents.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("http://") && !elsewhere.contains("https://"),
                "{name}"
            );
            if *kind == JS {
                let imports = named(contents, "from \"./");
                assert!(imports.iter().all(served), "{name} imports {imports:?}");
            }
        }
        for inline in ["<style", "style=", "onclick", "onload", "javascript:"] {
            assert!(!PAGE.contains(inline), "index.html has {inline}");
            assert!(!LOGIN_PAGE.contains(inline), "login.html has {inline}");
        }
        assert!(!LOGIN_PAGE.contains("<script") && LOGIN_PAGE.contains(PROBLEM_PLACE));
        assert!(
            !PAGE.replace(" src=", "").contains("<script>"),
            "a script of the page's own"
        );
    }
}
