//! What a [`Client`] records about agents that do not answer, and how it names them in errors.

use std::{sync::Arc, time::Duration};

use streamhouse_core::{Error as ClusterError, ErrorCode};
use tonic::Status;

use super::Client;
use crate::{
    connection::{error_from_status, has_error_code},
    reachability::UnreachableAgent,
};

impl Client {
    /// Returns the agents that did not answer the last call to them, those that have failed the
    /// longest first.
    pub fn unreachable_agents(&self) -> Vec<UnreachableAgent> {
        let failing = self.reachability().failing_agents().into_iter();
        failing
            .map(|(uri, duration, error)| self.describe_unreachable(&uri, duration, &error))
            .collect()
    }

    fn describe_unreachable(
        &self,
        uri: &Arc<str>,
        duration: Duration,
        error: &ClusterError,
    ) -> UnreachableAgent {
        let agent_id = self.cache().agent_id(uri).map(|id| id.to_string());
        UnreachableAgent::at(uri, agent_id, duration, error.message())
    }

    /// Records that the agent did not answer. Returns an error that names the agent.
    pub(super) fn record_agent_failure(&self, uri: &Arc<str>, error: ClusterError) -> ClusterError {
        let described = self.describe_unreachable(uri, Duration::ZERO, &error);
        let code = error.code();
        self.reachability().record_agent_failure(uri.clone(), error);
        ClusterError::new(code, described.to_string())
    }

    /// Returns the error of a call that ended with this status: the agent's own error, or that the
    /// agent is unreachable.
    pub(crate) fn error_of_failed_call(&self, uri: &Arc<str>, status: Status) -> ClusterError {
        let named = has_error_code(&status);
        let error = error_from_status(status);
        if !named && error.code() == ErrorCode::NetworkException {
            return self.record_agent_failure(uri, error);
        }
        self.reachability().record_agent_success(uri);
        error
    }

    /// Returns the agent that has failed the longest, as the cause of a time-out.
    pub(crate) fn unreachable_cause(&self) -> Option<ClusterError> {
        let worst = self.unreachable_agents().into_iter().next()?;
        Some(ClusterError::new(ErrorCode::NetworkException, worst.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use streamhouse_core::protocol::v1;

    use super::*;

    fn refused() -> ClusterError {
        ClusterError::new(
            ErrorCode::NetworkException,
            "transport error: tcp connect error: transport error: refused",
        )
    }

    fn client() -> Client {
        let client = Client::connect("seed:1").unwrap();
        client.cache().merge(v1::MetadataResponse {
            agents: vec![v1::AgentDescription {
                agent_id: "a-2".into(),
                grpc_address: "10.0.0.9:50051".into(),
                ..Default::default()
            }],
            ..Default::default()
        });
        client
    }

    #[tokio::test]
    async fn an_advertised_address_that_does_not_answer_is_named_with_its_agent() {
        let client = client();
        let error = client.record_agent_failure(&"http://10.0.0.9:50051".into(), refused());
        assert_eq!(error.code(), ErrorCode::NetworkException);
        assert!(
            error.message().starts_with(
                "agent a-2 advertises 10.0.0.9:50051, which does not answer (tcp connect error: refused); "
            ),
            "{error}"
        );
        let error = client.record_agent_failure(&"http://seed:1".into(), refused());
        assert!(
            error.message().starts_with("no agent answers at seed:1 (tcp"),
            "{error}"
        );
        assert!(error.message().contains("check the bootstrap address"), "{error}");
    }

    #[tokio::test]
    async fn an_agents_own_error_is_an_answer() {
        let client = client();
        let uri = "http://10.0.0.9:50051".into();
        client.record_agent_failure(&uri, refused());
        let own = ClusterError::new(ErrorCode::ResourceExhausted, "slow down");
        assert_eq!(client.error_of_failed_call(&uri, Status::from(own.clone())), own);
        assert!(client.unreachable_agents().is_empty());
        assert_eq!(client.unreachable_cause(), None);
        let broken = client.error_of_failed_call(&uri, Status::unavailable("gone"));
        assert!(broken.message().contains("a-2"), "{broken}");
        assert_eq!(client.unreachable_agents().len(), 1);
    }
}
