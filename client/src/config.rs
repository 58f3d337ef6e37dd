//! [`ClientConfig`]: what producer, consumer and admin have in common: addresses, identity,
//! time-outs. Their builders fill it in; [`ClientConfig::validate`] rejects invalid values before
//! any connection is opened.

mod address;
mod credentials;
mod token_file;

use std::{fmt, sync::Arc, time::Duration};

use streamhouse_core::time::{system_clock, system_entropy};

pub use streamhouse_core::time::{Clock, Entropy};

use self::address::{host_of, is_ip, is_loopback, is_server_name};
pub(crate) use self::address::{is_secure, parse_agent_uri, parse_bootstrap};
pub use self::credentials::ClientCredentials;
pub(crate) use self::token_file::TokenFile;
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
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use std::time::Duration;
/// use streamhouse_client::{Client, ClientConfig};
///
/// let config = ClientConfig::new("https://agents.shop.svc:50051")
///     .with_client_id("billing")
///     .with_request_timeout(Duration::from_secs(10));
/// let client = Client::new(config)?;
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
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
    /// User and password, or a file with a token, for clusters whose clients authenticate. Default:
    /// none.
    pub credentials: Option<ClientCredentials>,
    /// Whether the password or token may be sent over connections without TLS to other machines,
    /// where anybody in between can read it. Default false.
    pub allow_plaintext_password: bool,
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
            credentials: None,
            allow_plaintext_password: false,
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

    /// Sets the client id, see [`ClientConfig::client_id`].
    #[must_use]
    pub fn with_client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// Sets the time limit for opening a connection, see [`ClientConfig::connect_timeout`].
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit for one answer of an agent, see [`ClientConfig::request_timeout`].
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets the time limit for a whole call with its retries, see [`ClientConfig::api_timeout`].
    #[must_use]
    pub fn with_api_timeout(mut self, timeout: Duration) -> Self {
        self.api_timeout = timeout;
        self
    }

    /// Sets the delay before the first retry, see [`ClientConfig::retry_backoff`].
    #[must_use]
    pub fn with_retry_backoff(mut self, delay: Duration) -> Self {
        self.retry_backoff = delay;
        self
    }

    /// Sets the longest delay between retries, see [`ClientConfig::retry_backoff_max`].
    #[must_use]
    pub fn with_retry_backoff_max(mut self, delay: Duration) -> Self {
        self.retry_backoff_max = delay;
        self
    }

    /// Sets the age at which cached metadata is refreshed, see [`ClientConfig::metadata_max_age`].
    #[must_use]
    pub fn with_metadata_max_age(mut self, age: Duration) -> Self {
        self.metadata_max_age = age;
        self
    }

    /// Sets the PEM certificate of the authority that signed the agents' certificates, see
    /// [`ClientConfig::tls_ca_pem`].
    #[must_use]
    pub fn with_tls_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls_ca_pem = Some(pem.into());
        self
    }

    /// Sets the name that every agent's certificate must carry, see
    /// [`ClientConfig::tls_server_name`].
    #[must_use]
    pub fn with_tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(name.into());
        self
    }

    /// Sets the client certificate, see [`ClientConfig::tls_identity`].
    #[must_use]
    pub fn with_tls_identity(mut self, identity: ClientIdentity) -> Self {
        self.tls_identity = Some(identity);
        self
    }

    /// Sets user and password, see [`ClientConfig::credentials`].
    #[must_use]
    pub fn with_credentials(mut self, credentials: ClientCredentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Sets whether the password may be sent without TLS, see
    /// [`ClientConfig::allow_plaintext_password`].
    #[must_use]
    pub fn with_plaintext_password(mut self, allowed: bool) -> Self {
        self.allow_plaintext_password = allowed;
        self
    }

    /// Sets the source of the current time, see [`ClientConfig::clock`].
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the source of randomness, see [`ClientConfig::entropy`].
    #[must_use]
    pub fn with_entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
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
        if let Some(credentials) = &self.credentials {
            credentials.validate()?;
        }
        for uri in parse_bootstrap(&self.bootstrap)? {
            self.check_password_is_safe(&uri)?;
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
            credentials,
            allow_plaintext_password,
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
            ("credentials", self.credentials != credentials),
            (
                "allow_plaintext_password",
                self.allow_plaintext_password != allow_plaintext_password,
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

    /// Checks that nobody between this client and the agent at `uri` can read the password or
    /// token.
    pub(crate) fn check_password_is_safe(&self, uri: &str) -> Result<()> {
        let Some(credentials) = &self.credentials else {
            return Ok(());
        };
        if self.allow_plaintext_password || is_secure(uri) || is_loopback(host_of(uri)) {
            return Ok(());
        }
        let secret = credentials.secret_name();
        Err(Error::config(format!(
            "the {secret} is not sent to {uri} without TLS, because others could read it: use https://, or allow \
             plaintext passwords if the network is trusted"
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

/// Rejects a zero duration.
pub(crate) fn ensure_positive(name: &str, value: Duration) -> Result<()> {
    if value.is_zero() {
        return Err(Error::config(format!("{name} must be longer than zero")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_password_is_sent_to_other_machines_only_by_tls() {
        let config = |bootstrap: &str| {
            ClientConfig::new(bootstrap).with_credentials(ClientCredentials::new("alice", "hunter2"))
        };
        for safe in ["https://a:1", "localhost:1", "127.0.0.1:1", "[::1]:1"] {
            config(safe).validate().unwrap();
        }
        for unsafe_ in ["a:1", "https://a:1,b:1", "10.0.0.1:1", "localhost.example.com:1"] {
            let error = config(unsafe_).validate().unwrap_err().to_string();
            assert!(
                error.contains("https://") && !error.contains("hunter2"),
                "{error}"
            );
            config(unsafe_).with_plaintext_password(true).validate().unwrap();
        }
        assert!(!format!("{:?}", config("a:1")).contains("hunter2"));
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
