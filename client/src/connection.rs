//! [`ChannelPool`]: one lazily opened HTTP/2 channel per agent address, shared by all users of a
//! client. Channels reconnect by themselves; keep-alive pings detect a dead peer.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::RwLock;
use streamhouse_core::{
    Error as ClusterError, ErrorCode,
    protocol::{
        ERROR_CODE_HEADER,
        v1::{
            admin_service_client::AdminServiceClient, data_service_client::DataServiceClient,
            group_service_client::GroupServiceClient, security_service_client::SecurityServiceClient,
        },
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    config::{ClientConfig, MAX_MESSAGE_SIZE, TokenFile, is_secure},
    error::{Error, Result},
};

/// HTTP/2 windows, large enough to keep a fast link busy with fetched batches.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel whose calls carry the client's credentials.
pub(crate) type AgentChannel = InterceptedService<Channel, CallAuthorization>;

/// Adds the header `authorization` to calls, if there are credentials.
#[derive(Debug, Clone)]
pub(crate) enum CallAuthorization {
    None,
    Password(MetadataValue<Ascii>),
    Token(Arc<TokenFile>),
}

impl CallAuthorization {
    fn new(config: &ClientConfig) -> Self {
        let Some(credentials) = &config.credentials else {
            return Self::None;
        };
        match credentials.token_file() {
            Some(path) => Self::Token(Arc::new(TokenFile::new(path))),
            None => credentials.fixed_header().map_or(Self::None, Self::Password),
        }
    }
}

impl Interceptor for CallAuthorization {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        let header = match self {
            Self::None => None,
            Self::Password(header) => Some(header.clone()),
            Self::Token(file) => file.header(),
        };
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

/// A client's channels, by agent URI.
pub(crate) struct ChannelPool {
    channels: RwLock<HashMap<Arc<str>, Channel>>,
    authorization: CallAuthorization,
    config: ClientConfig,
}

impl fmt::Debug for ChannelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelPool")
            .field("agents", &self.channels.read().keys())
            .finish_non_exhaustive()
    }
}

impl ChannelPool {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self {
            channels: RwLock::default(),
            authorization: CallAuthorization::new(config),
            config: config.clone(),
        }
    }

    /// Returns the channel to an agent. It connects on first use.
    pub(crate) fn channel(&self, uri: &Arc<str>) -> Result<AgentChannel> {
        let channel = self.plain_channel(uri)?;
        Ok(InterceptedService::new(channel, self.authorization.clone()))
    }

    fn plain_channel(&self, uri: &Arc<str>) -> Result<Channel> {
        if let Some(channel) = self.channels.read().get(uri) {
            return Ok(channel.clone());
        }
        self.config.check_password_is_safe(uri)?;
        let channel = self.endpoint(uri)?.connect_lazy();
        Ok(self
            .channels
            .write()
            .entry(uri.clone())
            .or_insert(channel)
            .clone())
    }

    /// Drops the channels to all agents except those for which `keep` is true.
    pub(crate) fn retain(&self, keep: impl Fn(&Arc<str>) -> bool) {
        if self.channels.read().keys().all(&keep) {
            return;
        }
        self.channels.write().retain(|uri, _| keep(uri));
    }

    fn endpoint(&self, uri: &Arc<str>) -> Result<Endpoint> {
        let refuse =
            |error: tonic::transport::Error| Error::Config(format!("cannot connect to {uri}: {error}"));
        let agent = format!(
            "{} streamhouse-client/{}",
            printable_client_id(&self.config.client_id),
            env!("CARGO_PKG_VERSION")
        );
        let endpoint = Endpoint::from_shared(uri.to_string())
            .and_then(|endpoint| endpoint.user_agent(agent))
            .map_err(refuse)?
            .connect_timeout(self.config.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if !is_secure(uri) {
            return Ok(endpoint);
        }
        let tls = ClientTlsConfig::new().domain_name(self.config.tls_name_of(uri));
        let tls = match &self.config.tls_ca_pem {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        let tls = match &self.config.tls_identity {
            Some(identity) => {
                let (certificate, key) = identity.pem();
                tls.identity(Identity::from_pem(certificate, key))
            }
            None => tls,
        };
        endpoint.tls_config(tls).map_err(refuse)
    }
}

/// Rejects invalid certificates and keys before any connection is opened.
pub(crate) fn validate_tls(config: &ClientConfig) -> Result<()> {
    let begins = b"-----BEGIN CERTIFICATE-----";
    let has_certificate = |pem: &[u8]| pem.windows(begins.len()).any(|bytes| bytes == begins);
    if let Some(pem) = &config.tls_ca_pem
        && !has_certificate(pem)
    {
        return Err(Error::config(
            "tls_ca_pem contains no certificate; give the certificate authority's, as PEM",
        ));
    }
    let Some(identity) = &config.tls_identity else {
        return Ok(());
    };
    let (certificate, key) = identity.pem();
    let tls = ClientTlsConfig::new().identity(Identity::from_pem(certificate, key));
    let made = Endpoint::from_static("https://localhost").tls_config(tls);
    if made.is_err() || !has_certificate(certificate) {
        return Err(Error::config(
            "tls_identity is not a certificate with its private key; give both as PEM",
        ));
    }
    Ok(())
}

/// Returns the part of a client id that is valid in an HTTP header.
fn printable_client_id(client_id: &str) -> String {
    client_id
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .take(100)
        .collect()
}

/// Returns a client of the data service on this channel.
pub(crate) fn data_client(channel: AgentChannel) -> DataServiceClient<AgentChannel> {
    DataServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE)
}

/// Returns a client of the admin service on this channel.
pub(crate) fn admin_client(channel: AgentChannel) -> AdminServiceClient<AgentChannel> {
    AdminServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

/// Returns a client of the group service on this channel.
pub(crate) fn group_client(channel: AgentChannel) -> GroupServiceClient<AgentChannel> {
    GroupServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

/// Returns a client of the security service on this channel.
pub(crate) fn security_client(channel: AgentChannel) -> SecurityServiceClient<AgentChannel> {
    SecurityServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

/// Converts the status of a failed call. Agents always set an error code; a status without one
/// comes from the transport, and its vaguest codes (such as a peer that died while answering) are
/// reported as broken connections. The transport's message is only "transport error", so the
/// message includes the causes.
pub(crate) fn error_from_status(status: Status) -> ClusterError {
    if has_error_code(&status) {
        return ClusterError::from(status);
    }
    let message = message_with_causes(&status);
    let code = match ClusterError::from(status).code() {
        ErrorCode::Unknown => ErrorCode::NetworkException,
        code => code,
    };
    ClusterError::new(code, message)
}

/// Returns whether an agent made the status, and not the transport.
pub(crate) fn has_error_code(status: &Status) -> bool {
    status.metadata().contains_key(ERROR_CODE_HEADER)
}

/// Returns the message, extended with the causes that add information.
fn message_with_causes(status: &Status) -> String {
    let mut message = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}

/// Returns the error of a partition, member or topic within an answer, if there is one.
pub(crate) fn item_error(error: Option<streamhouse_core::protocol::v1::Error>) -> Option<ClusterError> {
    error
        .filter(|error| error.code != ErrorCode::None.number())
        .map(ClusterError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nameless_internal_status_is_a_broken_connection() {
        assert_eq!(
            error_from_status(Status::internal("h2 broke")).code(),
            ErrorCode::NetworkException
        );
        let named = Status::from(ClusterError::new(ErrorCode::Unknown, "see the log"));
        assert_eq!(error_from_status(named).code(), ErrorCode::Unknown);
    }

    #[tokio::test]
    async fn channels_to_agents_that_are_gone_are_let_go() {
        let pool = ChannelPool::new(&ClientConfig::new("a:1"));
        for uri in ["http://a:1", "http://b:1", "http://c:1"] {
            pool.channel(&uri.into()).unwrap();
        }
        pool.retain(|uri| &**uri != "http://b:1");
        let mut left: Vec<_> = pool.channels.read().keys().cloned().collect();
        left.sort();
        assert_eq!(left, ["http://a:1".into(), "http://c:1".into()]);
    }

    #[tokio::test]
    async fn an_agent_has_one_channel() {
        let pool = ChannelPool::new(&ClientConfig::new("a:1"));
        pool.channel(&"http://a:1".into()).unwrap();
        pool.channel(&"http://a:1".into()).unwrap();
        assert_eq!(pool.channels.read().len(), 1);
    }
}
