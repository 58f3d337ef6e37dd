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
    security::QuotaKey,
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant},
};

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

    /// Returns whether the client's credential is still the stored one, or its token still valid.
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
    /// Measures what the client does by this request; `None` if there are no quotas.
    pub(super) use_meter: Option<Arc<Mutex<UseMeter>>>,
}

impl RequestContext {
    /// Returns what the client may do.
    pub(super) fn access(&self) -> &ClientAccess {
        &self.access
    }

    /// Records what the client did by this request.
    pub(super) fn record_use(&self, key: QuotaKey, amount: f64) {
        if let Some(meter) = &self.use_meter {
            let delay = self.access.record_use(key, &self.client_id, amount);
            meter.lock().throttle(delay);
        }
    }

    /// Returns what the client may do in a second; `None` if it is not limited.
    pub(super) fn quota(&self, key: QuotaKey) -> Option<f64> {
        self.use_meter.as_ref()?;
        self.access.quota(key, &self.client_id)
    }

    /// Records that the client is about to create or delete partitions. As in Kafka, a version that
    /// has a code for it is refused, and the client of an older one is throttled.
    ///
    /// # Errors
    /// `ResourceExhausted` if it has exceeded its quota.
    pub(super) fn check_mutation(&self, partitions: usize, since: i16) -> Result<(), Error> {
        let Some(meter) = &self.use_meter else {
            return Ok(());
        };
        let key = QuotaKey::ControllerMutationRate;
        if self.version < since {
            self.record_use(key, partitions as f64);
            return Ok(());
        }
        let checked = self.access.check_mutation(&self.client_id, partitions);
        if checked.is_err() {
            meter.lock().refused_for = self.access.throttle_time(key, &self.client_id);
        }
        checked
    }

    /// Records for how long a request was worked on since this was called last.
    pub(super) fn record_work(&self) {
        if let Some(meter) = &self.use_meter {
            let spent = meter.lock().take_work();
            self.record_use(QuotaKey::RequestPercentage, spent.as_secs_f64() * 100.0);
        }
    }

    /// Returns how long the client is to be throttled from now on.
    pub(super) fn throttle_time(&self) -> Duration {
        let meter = self.use_meter.as_ref().map(|meter| meter.lock());
        meter.map_or(Duration::ZERO, |meter| meter.throttle_time())
    }

    /// Returns a response as it is sent: it says how long the client is throttled.
    pub(super) fn encoded<M: KafkaMessage>(
        &self,
        mut response: M,
        key: ApiKey,
        correlation_id: i32,
    ) -> KafkaAnswer {
        self.record_work();
        if let Some(meter) = &self.use_meter {
            meter.lock().tell(&mut response);
        }
        encoded(&response, key, self.version, correlation_id)
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

/// What a client does by one request, as far as quotas limit it.
#[derive(Debug, Default)]
pub(super) struct UseMeter {
    /// Until when the client is to be throttled for what it did.
    throttled_until: Option<Instant>,
    /// How long it has to wait until what was refused is allowed.
    refused_for: Duration,
    /// How long the request was worked on, as far as it is not recorded yet.
    work: Duration,
    /// When the present step of the work began.
    step_begun: Option<Instant>,
}

impl UseMeter {
    pub(super) fn begin_step(&mut self) {
        self.step_begun = Some(Instant::now());
    }

    pub(super) fn end_step(&mut self) {
        self.work += self
            .step_begun
            .take()
            .map_or(Duration::ZERO, |begun| begun.elapsed());
    }

    fn take_work(&mut self) -> Duration {
        if self.step_begun.is_some() {
            self.end_step();
            self.begin_step();
        }
        std::mem::take(&mut self.work)
    }

    fn throttle(&mut self, delay: Duration) {
        if !delay.is_zero() {
            self.throttled_until = self.throttled_until.max(Some(Instant::now() + delay));
        }
    }

    fn throttle_time(&self) -> Duration {
        let until = self.throttled_until;
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    fn tell<M: KafkaMessage>(&self, response: &mut M) {
        let told = self.throttle_time().max(self.refused_for);
        if !told.is_zero() {
            let told_ms = i32::try_from(told.as_millis()).unwrap_or(i32::MAX).max(1);
            response.set_throttle_time_ms(told_ms.max(response.throttle_time_ms()));
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
    /// How long nothing is read from the client when the answer has left.
    pub(super) muted: Duration,
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
