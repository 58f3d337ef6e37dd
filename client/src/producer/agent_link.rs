//! [`AgentLink`]: the produce stream to one agent. A task opens the stream and forwards answers to
//! the dispatcher; when the stream ends, for any reason, it reports that once, and the dispatcher
//! opens the next stream.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1, trace::SampledSpan};
use tokio::{sync::mpsc, task::AbortHandle, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{encode::ProducerIdentity, partition_sender::SendAttempt, traces::RequestTrace};
use crate::{
    Client,
    connection::{self, error_from_status},
    retry::Backoff,
};

/// Events from tasks to the dispatcher.
#[derive(Debug)]
pub(super) enum StreamEvent {
    /// An agent answered a request.
    Answer {
        /// Index of the link.
        link: usize,
        /// Number of its stream.
        stream: u64,
        /// The answer.
        response: v1::ProduceResponse,
    },
    /// A stream has ended.
    Broken {
        /// Index of the link.
        link: usize,
        /// Number of its stream.
        stream: u64,
        /// Why it ended.
        error: ClusterError,
    },
    /// The cluster assigned a producer id.
    Identity(ProducerIdentity),
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct InflightRequest {
    /// Its lanes, with the attempt of each.
    pub(super) batches: Vec<(usize, SendAttempt)>,
    /// Bytes of its records, as sent.
    pub(super) bytes: usize,
    pub(super) at: Instant,
    /// Ends with the answer.
    pub(super) span: Option<SampledSpan>,
}

/// Connection to one agent, as the dispatcher sees it.
#[derive(Debug)]
pub(super) struct AgentLink {
    pub(super) uri: Arc<str>,
    /// Lanes with something to send to this agent.
    pub(super) ready_lanes: std::collections::VecDeque<usize>,
    pub(super) in_flight: BTreeMap<u64, InflightRequest>,
    /// Nothing is sent before: the agent asked for a pause, or its stream just broke.
    pub(super) not_before: Option<Instant>,
    pub(super) stream: u64,
    pub(super) backoff: Backoff,
    /// Maximum size of a request, if the agent accepts less than the producer's limit.
    pub(super) max_request_bytes: usize,
    requests: Option<mpsc::Sender<v1::ProduceRequest>>,
    task: Option<AbortHandle>,
    next_request: u64,
}

impl Drop for AgentLink {
    fn drop(&mut self) {
        self.close();
    }
}

impl AgentLink {
    pub(super) fn new(uri: Arc<str>, backoff: Backoff) -> Self {
        Self {
            uri,
            ready_lanes: std::collections::VecDeque::new(),
            in_flight: BTreeMap::new(),
            not_before: None,
            stream: 0,
            backoff,
            max_request_bytes: usize::MAX,
            requests: None,
            task: None,
            next_request: 0,
        }
    }

    /// Reuses the link for another agent. Answers to earlier requests are ignored.
    pub(super) fn reassign(&mut self, uri: Arc<str>, backoff: Backoff) {
        self.close();
        self.stream += 1;
        self.uri = uri;
        self.backoff = backoff;
        self.max_request_bytes = usize::MAX;
        self.not_before = None;
    }

    /// Returns whether a request may be sent now.
    pub(super) fn has_room(&self, now: Instant, max_in_flight: usize) -> bool {
        self.in_flight.len() < max_in_flight && self.not_before.is_none_or(|at| at <= now)
    }

    /// Opens a stream, unless one is open. `index` is this link's index, `room` its maximum number
    /// of requests in flight.
    pub(super) fn open(
        &mut self,
        client: &Client,
        index: usize,
        room: usize,
        events: &mpsc::Sender<StreamEvent>,
    ) {
        if self.requests.is_some() {
            return;
        }
        self.stream += 1;
        let (requests, outgoing) = mpsc::channel(room);
        self.requests = Some(requests);
        let channel = client.channel(&self.uri);
        let (client, uri) = (client.clone(), self.uri.clone());
        let (stream, events) = (self.stream, events.clone());
        let task = tokio::spawn(async move {
            let error = match channel {
                Ok(channel) => match open_stream(&client, &uri, channel, outgoing).await {
                    Ok(answers) => forward_responses(answers, index, stream, &events).await,
                    Err(error) => error,
                },
                Err(error) => ClusterError::new(ErrorCode::NetworkException, error.to_string()),
            };
            let _ = events
                .send(StreamEvent::Broken {
                    link: index,
                    stream,
                    error,
                })
                .await;
        });
        self.task = Some(task.abort_handle());
    }

    /// Sends a request. Returns false if the stream has ended already.
    pub(super) fn send(
        &mut self,
        partitions: Vec<v1::PartitionProduce>,
        batches: Vec<(usize, SendAttempt)>,
        trace: RequestTrace,
    ) -> bool {
        let request_id = self.next_request;
        self.next_request += 1;
        self.in_flight.insert(
            request_id,
            InflightRequest {
                batches,
                bytes: partitions.iter().map(|part| part.records.len()).sum(),
                at: Instant::now(),
                span: trace.span,
            },
        );
        let request = v1::ProduceRequest {
            request_id,
            partitions,
            traceparent: trace.parent,
            tracestate: trace.state,
        };
        self.requests
            .as_ref()
            .is_some_and(|requests| requests.try_send(request).is_ok())
    }

    /// Closes the stream; later answers are ignored. Returns the requests in flight.
    pub(super) fn close(&mut self) -> Vec<InflightRequest> {
        self.requests = None;
        if let Some(task) = self.task.take() {
            task.abort();
        }
        std::mem::take(&mut self.in_flight).into_values().collect()
    }

    /// Returns when the oldest request in flight was sent.
    pub(super) fn oldest_sent_at(&self) -> Option<Instant> {
        self.in_flight.values().next().map(|sent| sent.at)
    }

    /// Sends nothing for the duration of `pause`.
    pub(super) fn pause(&mut self, now: Instant, pause: Duration) {
        let until = now + pause;
        self.not_before = Some(self.not_before.map_or(until, |at| at.max(until)));
    }
}

/// Opens a stream.
async fn open_stream(
    client: &Client,
    uri: &Arc<str>,
    channel: crate::connection::AgentChannel,
    outgoing: mpsc::Receiver<v1::ProduceRequest>,
) -> Result<Streaming<v1::ProduceResponse>, ClusterError> {
    let mut service = connection::data_client(channel);
    match service.produce(ReceiverStream::new(outgoing)).await {
        Ok(answers) => {
            client.reachability().record_agent_success(uri);
            Ok(answers.into_inner())
        }
        Err(status) => Err(client.error_of_failed_call(uri, status)),
    }
}

/// Forwards a stream's answers until it ends. Returns its error.
async fn forward_responses(
    mut answers: Streaming<v1::ProduceResponse>,
    link: usize,
    stream: u64,
    events: &mpsc::Sender<StreamEvent>,
) -> ClusterError {
    loop {
        match answers.message().await {
            Ok(Some(response)) => {
                if events
                    .send(StreamEvent::Answer {
                        link,
                        stream,
                        response,
                    })
                    .await
                    .is_err()
                {
                    return ClusterError::new(ErrorCode::ShuttingDown, "the producer has ended");
                }
            }
            Ok(None) => {
                return ClusterError::new(ErrorCode::NetworkException, "the agent ended the produce stream");
            }
            Err(status) => return error_from_status(status),
        }
    }
}
