//! Addresses of agents: bootstrap lists, `host:port` with or without a scheme, and host names.

use std::{net::IpAddr, sync::Arc};

use super::DEFAULT_PORT;
use crate::error::{Error, Result};

/// Returns whether a URI made by [`parse_agent_uri`] uses TLS.
pub(crate) fn is_secure(uri: &str) -> bool {
    uri.starts_with("https://")
}

/// Returns the host of a URI made by [`parse_agent_uri`], an IPv6 address without its brackets.
pub(super) fn host_of(uri: &str) -> &str {
    let authority = uri.split_once("://").map_or(uri, |(_, authority)| authority);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

pub(super) fn is_ip(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// Returns whether connections to a host do not leave this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

pub(super) fn is_server_name(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    is_ip(name) || (!name.is_empty() && name.len() <= 253 && name.chars().all(letters))
}

/// Parses a bootstrap list into agent URIs.
pub(crate) fn parse_bootstrap(list: &str) -> Result<Vec<Arc<str>>> {
    let agents: Vec<_> = list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(parse_agent_uri)
        .collect::<Result<_>>()?;
    if agents.is_empty() {
        return Err(Error::config(
            "bootstrap is empty; give it an agent's address, like localhost:50051",
        ));
    }
    Ok(agents)
}

/// Parses `host:port`, with or without a scheme, into a URI with both scheme and port.
pub(crate) fn parse_agent_uri(address: &str) -> Result<Arc<str>> {
    let bad = |why: &str| {
        Error::config(format!(
            "{address:?} is not an agent's address ({why}); write host:port or https://host:port"
        ))
    };
    let with_scheme = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let uri: tonic::codegen::http::Uri = with_scheme.parse().map_err(|_| bad("it is malformed"))?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if scheme != "http" && scheme != "https" {
        return Err(bad("only http and https are supported"));
    }
    if uri.path().len() > 1 || uri.query().is_some() {
        return Err(bad("it has a path"));
    }
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| bad("it has no host"))?;
    // The parser treats an out-of-range port as absent.
    let after_host = uri
        .authority()
        .and_then(|authority| authority.as_str().strip_prefix(host));
    let port = match after_host
        .ok_or_else(|| bad("it names a user"))?
        .strip_prefix(':')
    {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| bad("the port is not a number from 1 to 65535"))?,
    };
    Ok(format!("{scheme}://{host}:{port}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_list_becomes_uris() {
        let agents = parse_bootstrap("a:1, https://b:2 ,c,[::1]:9").unwrap();
        let agents: Vec<&str> = agents.iter().map(|agent| &**agent).collect();
        assert_eq!(
            agents,
            ["http://a:1", "https://b:2", "http://c:50051", "http://[::1]:9"]
        );
    }

    #[test]
    fn addresses_that_make_no_sense_are_refused() {
        for bad in [
            "",
            " , ",
            "ftp://a:1",
            "http://a:1/x",
            "a:0",
            "a:99999",
            "a b:1",
            ":80",
            "a:x",
            "me@a:1",
        ] {
            let error = parse_bootstrap(bad).unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{bad}: {error}");
        }
    }
}
