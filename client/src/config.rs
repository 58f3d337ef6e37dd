//! [`ClientConfig`]: what producer, consumer and admin have in common: addresses, identity, time-outs.
//! Their builders fill it in; [`ClientConfig::validate`] rejects invalid values before any
//! connection is opened.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use streamhouse_core::time::{Clock, Entropy, system_clock, system_entropy};

use crate::error::{Error, Result};

/// Port of an agent's gRPC listener, for bootstrap addresses without a port.
pub const DEFAULT_PORT: u16 = 50051;
/// Largest gRPC message, in bytes, that the client sends or accepts.
pub const MAX_MESSAGE_SIZE: usize = 64 << 20;

/// A client certificate for mutual TLS, with its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl ClientIdentity {
    /// Creates an identity from a PEM certificate chain (leaf first, then intermediates) and its
    /// PEM private key.
    pub fn new(certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
        }
    }

    pub(crate) fn pem(&self) -> (&[u8], &[u8]) {
        (&self.certificate, &self.key)
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Omit the fields: the key is a secret.
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// Settings that producer, consumer and admin share.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Bootstrap agents: `host:port,host:port`, or `https://host:port` for TLS. Any agents of the
    /// cluster will do: the client discovers the others from them.
    pub bootstrap: String,
    /// Name of the client, shown by the cluster where it lists clients. Default
    /// `streamhouse-client`.
    pub client_id: String,
    /// Time limit for opening a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// Time limit for one answer of an agent. Default 30 s.
    pub request_timeout: Duration,
    /// Time limit for a whole call with its retries. Default 60 s.
    pub api_timeout: Duration,
    /// Delay before the first retry. It doubles with each retry, with jitter, up to
    /// `retry_backoff_max`. Default 100 ms.
    pub retry_backoff: Duration,
    /// Longest delay between retries. Default 1 s.
    pub retry_backoff_max: Duration,
    /// Age at which cached metadata is refreshed even without an error. Default 5 min.
    pub metadata_max_age: Duration,
    /// PEM certificate of the authority that signed the agents' certificates. Default: the system's
    /// root certificates.
    pub tls_ca_pem: Option<Vec<u8>>,
    /// Name that every agent's certificate must carry. Without it, the certificate must match the
    /// host name the agent is reached by. If that is an IP address, as for agents in Kubernetes, it
    /// must match the first host name in `bootstrap`, because a certificate names the service and
    /// not each agent; without any host name, the IP address.
    pub tls_server_name: Option<String>,
    /// Client certificate for servers that require mutual TLS. Default: none.
    pub tls_identity: Option<ClientIdentity>,
    /// Source of the current time, for timestamps of records.
    pub clock: Arc<dyn Clock>,
    /// Source of randomness, for jitter and the first sticky partition.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            client_id: "streamhouse-client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(300),
            tls_ca_pem: None,
            tls_server_name: None,
            tls_identity: None,
            clock: system_clock(),
            entropy: system_entropy(),
        }
    }
}

impl ClientConfig {
    /// Creates default settings with these bootstrap addresses.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            ..Self::default()
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        parse_bootstrap(&self.bootstrap)?;
        ensure_positive("connect_timeout", self.connect_timeout)?;
        ensure_positive("request_timeout", self.request_timeout)?;
        ensure_positive("api_timeout", self.api_timeout)?;
        ensure_positive("retry_backoff", self.retry_backoff)?;
        if self.retry_backoff_max < self.retry_backoff {
            return Err(Error::config(
                "retry_backoff_max is shorter than retry_backoff; raise it",
            ));
        }
        if let Some(name) = &self.tls_server_name
            && !is_server_name(name)
        {
            return Err(Error::config(format!(
                "tls_server_name is {name:?}; write a host name or an IP address, without scheme and port"
            )));
        }
        Ok(())
    }

    /// Rejects settings that were changed next to a shared client: the client's own settings apply,
    /// so they would have no effect.
    pub(crate) fn reject_with_shared_client(&self) -> Result<()> {
        let Self {
            bootstrap,
            client_id,
            connect_timeout,
            request_timeout,
            api_timeout,
            retry_backoff,
            retry_backoff_max,
            metadata_max_age,
            tls_ca_pem,
            tls_server_name,
            tls_identity,
            clock,
            entropy,
        } = Self::default();
        let changed = [
            ("bootstrap", self.bootstrap != bootstrap),
            ("client_id", self.client_id != client_id),
            ("connect_timeout", self.connect_timeout != connect_timeout),
            ("request_timeout", self.request_timeout != request_timeout),
            ("api_timeout", self.api_timeout != api_timeout),
            ("retry_backoff", self.retry_backoff != retry_backoff),
            ("retry_backoff_max", self.retry_backoff_max != retry_backoff_max),
            ("metadata_max_age", self.metadata_max_age != metadata_max_age),
            ("tls_ca_pem", self.tls_ca_pem != tls_ca_pem),
            ("tls_server_name", self.tls_server_name != tls_server_name),
            (
                "tls_identity",
                self.tls_identity.is_some() != tls_identity.is_some(),
            ),
            // These have no equality: compare the concrete type by its debug output.
            ("clock", format!("{:?}", self.clock) != format!("{clock:?}")),
            ("entropy", format!("{:?}", self.entropy) != format!("{entropy:?}")),
        ];
        let names: Vec<&str> = changed
            .iter()
            .filter(|(_, is)| *is)
            .map(|(name, _)| *name)
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!(
            "{} would have no effect beside a shared client, whose own settings apply; set it where that client is built",
            names.join(", ")
        )))
    }

    /// Returns the name that the certificate of the agent at `uri` must carry.
    pub(crate) fn tls_name_of(&self, uri: &str) -> String {
        if let Some(name) = &self.tls_server_name {
            return name.clone();
        }
        let host = host_of(uri);
        let named = || {
            let bootstrap = parse_bootstrap(&self.bootstrap).unwrap_or_default();
            let mut secure = bootstrap.iter().filter(|uri| is_secure(uri));
            secure.find_map(|uri| Some(host_of(uri)).filter(|host| !is_ip(host)).map(str::to_owned))
        };
        if is_ip(host) {
            named().unwrap_or_else(|| host.to_owned())
        } else {
            host.to_owned()
        }
    }
}

/// Returns whether a URI made by [`parse_agent_uri`] uses TLS.
pub(crate) fn is_secure(uri: &str) -> bool {
    uri.starts_with("https://")
}

/// Returns the host of a URI made by [`parse_agent_uri`], an IPv6 address without its brackets.
fn host_of(uri: &str) -> &str {
    let authority = uri.split_once("://").map_or(uri, |(_, authority)| authority);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_ip(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

fn is_server_name(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    is_ip(name) || (!name.is_empty() && name.len() <= 253 && name.chars().all(letters))
}

/// Rejects a zero duration.
pub(crate) fn ensure_positive(name: &str, value: Duration) -> Result<()> {
    if value.is_zero() {
        return Err(Error::config(format!("{name} must be longer than zero")));
    }
    Ok(())
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

    #[test]
    fn an_agent_reached_by_its_ip_address_is_held_to_the_bootstraps_name() {
        let name = |bootstrap: &str, uri: &str| ClientConfig::new(bootstrap).tls_name_of(uri);
        let service = "https://10.0.0.1:1,http://plain:1,https://agents.shop.svc:50051,https://other:1";
        assert_eq!(name(service, "https://10.0.0.7:50051"), "agents.shop.svc");
        assert_eq!(name(service, "https://[fd00::7]:50051"), "agents.shop.svc");
        assert_eq!(name(service, "https://agent-0:50051"), "agent-0");
        assert_eq!(name("https://10.0.0.1:1", "https://10.0.0.7:50051"), "10.0.0.7");
        assert_eq!(name("https://[fd00::1]:1", "https://[fd00::7]:50051"), "fd00::7");
        let mut settings = ClientConfig::new(service);
        settings.tls_server_name = Some("given".to_owned());
        for uri in ["https://10.0.0.7:50051", "https://agents.shop.svc:50051"] {
            assert_eq!(settings.tls_name_of(uri), "given");
        }
    }

    #[test]
    fn a_server_name_is_a_name_or_an_address() {
        let mut settings = ClientConfig::new("a:1");
        for (name, legal) in [
            ("agents.shop.svc", true),
            ("10.0.0.7", true),
            ("fd00::7", true),
            ("", false),
            ("agents:50051", false),
            ("https://agents", false),
        ] {
            settings.tls_server_name = Some(name.to_owned());
            assert_eq!(settings.validate().is_ok(), legal, "{name}");
        }
    }

    #[test]
    fn no_debug_output_shows_a_private_key() {
        let mut settings = ClientConfig::new("a:1");
        settings.tls_identity = Some(ClientIdentity::new("certificate", "hunter2"));
        let bytes = format!("{:?}", b"hunter2");
        let shown = format!("{settings:?}");
        assert!(
            shown.contains("ClientIdentity") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
    }

    #[test]
    fn contradictory_times_are_refused() {
        let mut settings = ClientConfig::new("a:1");
        settings.validate().unwrap();
        settings.retry_backoff_max = Duration::from_millis(1);
        assert!(settings.validate().is_err());
    }
}
