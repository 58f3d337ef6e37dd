//! A request with its client, and what is sent for it.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use streamhouse_core::{
    Error, ErrorCode,
    kafka::{ApiKey, KafkaMessage, encode_response},
};
use tokio::{sync::OwnedSemaphorePermit, time::Duration};

use super::{KafkaDeps, brokers::BrokerAddresses, limits::SMALL_ANSWER_BYTES, sasl_stage::SaslConnection};
use crate::{
    fetch::ResponseMemory,
    metrics::{ClientSoftware, CountedConnection},
    security::ClientAccess,
};

/// A client, as far as it has made itself known.
#[derive(Debug)]
pub(super) struct KafkaClient {
    pub(super) deps: Arc<KafkaDeps>,
    /// Those that the client's listener answers with.
    pub(super) addresses: BrokerAddresses,
    pub(super) host: Option<IpAddr>,
    pub(super) sasl: SaslConnection,
    /// What the client may do.
    access: ArcSwap<ClientAccess>,
    /// Counted by the client's software.
    connection: CountedConnection,
    /// Set once the connection has a client id.
    identified: OnceLock<()>,
}

impl KafkaClient {
    pub(super) fn new(deps: Arc<KafkaDeps>, addresses: BrokerAddresses, host: Option<IpAddr>) -> Self {
        let connection = deps.metrics.kafka.clients.connect(host);
        Self {
            sasl: SaslConnection::new(&deps.security),
            access: ArcSwap::from_pointee(deps.security.anonymous(host)),
            deps,
            addresses,
            host,
            connection,
            identified: OnceLock::new(),
        }
    }

    /// Returns what the client may do, as it has authenticated by now.
    pub(super) fn access(&self) -> Arc<ClientAccess> {
        self.access.load_full()
    }

    /// Replaces what the client may do, when it has authenticated.
    pub(super) fn replace_access(&self, access: ClientAccess) {
        self.access.store(Arc::new(access));
    }

    /// Returns whether the client's credential is still the stored one.
    pub(super) fn has_current_credential(&self) -> bool {
        self.access.load().is_current()
    }

    /// Counts the connection by the software that the client has named.
    pub(super) fn set_software(&self, software: ClientSoftware) {
        self.connection.set_software(software);
    }

    /// Keeps the first client id of the connection.
    pub(super) fn set_client_id(&self, client_id: &str) {
        if !client_id.is_empty() {
            self.identified
                .get_or_init(|| self.connection.set_client_id(client_id));
        }
    }

    /// Returns the address of the client as groups show it.
    pub(super) fn host(&self) -> String {
        self.host.map(|host| host.to_string()).unwrap_or_default()
    }
}

/// Returns the elements that a request names, each once: an answer is not larger than what there
/// is, however often a request names something large.
pub(super) fn each_once<T, K: Eq + Hash>(mut named: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = HashSet::with_capacity(named.len());
    named.retain(|element| seen.insert(key(element)));
    named
}

/// The names of a request's topics. One that is there more than once is answered once, with an
/// error.
#[derive(Debug)]
pub(super) struct RepeatedNames(HashMap<String, usize>);

impl RepeatedNames {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = HashMap::new();
        for name in names {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        Self(counts)
    }

    /// Returns whether a name may be served; `None` if it was answered before.
    pub(super) fn take(&mut self, name: &str) -> Option<Result<(), Error>> {
        match self.0.get_mut(name).map(std::mem::take) {
            Some(0) => None,
            Some(count) if count > 1 => {
                let message = "the request names the topic more than once";
                Some(Err(Error::new(ErrorCode::InvalidRequest, message)))
            }
            _ => Some(Ok(())),
        }
    }
}

/// A request with its client.
#[derive(Debug, Clone)]
pub(super) struct RequestContext {
    pub(super) client: Arc<KafkaClient>,
    /// What the client may do, as it had authenticated when the request began.
    pub(super) access: Arc<ClientAccess>,
    pub(super) version: i16,
    pub(super) client_id: String,
    /// Memory that was taken for the answer before it was built.
    pub(super) answer_memory: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl RequestContext {
    /// Returns what the client may do.
    pub(super) fn access(&self) -> &ClientAccess {
        &self.access
    }

    /// Waits for the memory of an answer, before one is built that may be large.
    pub(super) async fn reserve_answer(&self, bytes: usize) {
        if bytes > SMALL_ANSWER_BYTES {
            let permit = self.client.deps.fetch.memory.acquire(bytes).await;
            *self.answer_memory.lock() = permit.ok();
        }
    }

    /// Returns the answer with its memory.
    pub(super) async fn hold_memory(&self, answer: KafkaAnswer) -> KafkaAnswer {
        let bytes: usize = answer.buffers.iter().map(Bytes::len).sum();
        let reserved = self.answer_memory.lock().take();
        let memory = match reserved {
            Some(mut permit) => {
                let spare = permit.num_permits().saturating_sub(bytes);
                drop(permit.split(spare));
                Some(permit)
            }
            None if bytes > SMALL_ANSWER_BYTES => self.client.deps.fetch.memory.acquire(bytes).await.ok(),
            None => None,
        };
        KafkaAnswer {
            memory: memory.map(Arc::new),
            ..answer
        }
    }
}

/// What is sent for a request.
#[derive(Debug, Default)]
pub(super) struct KafkaAnswer {
    /// Empty for a request without an answer.
    pub(super) buffers: Vec<Bytes>,
    /// Memory of the answer, until it has left.
    pub(super) memory: Option<ResponseMemory>,
    /// The connection ends after the answer.
    pub(super) close: bool,
    /// The distinct error codes of the answer.
    pub(super) error_codes: Vec<i16>,
    /// How long the answer tells the client to wait.
    pub(super) throttle_time: Duration,
}

impl KafkaAnswer {
    /// Returns an answer that is not sent, with the errors that the response would tell.
    pub(super) fn unsent<M: KafkaMessage>(response: &M) -> Self {
        let mut error_codes = Vec::new();
        response.visit_error_codes(&mut |code| {
            if code != 0 && !error_codes.contains(&code) {
                error_codes.push(code);
            }
        });
        let throttle_ms = u64::try_from(response.throttle_time_ms()).unwrap_or_default();
        Self {
            error_codes,
            throttle_time: Duration::from_millis(throttle_ms),
            ..Self::default()
        }
    }

    /// Ends the connection without an answer.
    pub(super) fn close() -> Self {
        Self {
            close: true,
            ..Self::default()
        }
    }
}

/// Returns the answer with a response.
pub(super) fn encoded<M: KafkaMessage>(
    response: &M,
    key: ApiKey,
    version: i16,
    correlation_id: i32,
) -> KafkaAnswer {
    match encode_response(response, key, version, correlation_id) {
        Ok(buffers) => KafkaAnswer {
            buffers,
            ..KafkaAnswer::unsent(response)
        },
        Err(error) => {
            tracing::warn!(%error, api = key.name(), version, "a Kafka response cannot be encoded");
            KafkaAnswer::close()
        }
    }
}
