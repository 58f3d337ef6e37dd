//! By which listener a call came, and so which addresses its answer has.

use std::{net::IpAddr, sync::Arc};

use axum::http::{HeaderMap, Uri, header::HOST};
use streamhouse_core::protocol::v1;

use super::{address::parse_client_address, file::ListenerAddresses, reload::ListenerAddressBook};

/// The request header of a call that another agent has forwarded, which is never forwarded again.
/// Its value is the client's IP address.
pub const FORWARDED_HEADER: &str = "streamhouse-forwarded-for";

/// Which addresses a listener answers with.
#[derive(Debug, Clone)]
pub enum AddressAnswers {
    /// Those that the agents advertise.
    Advertised,
    /// Those of the listeners file.
    Listed(Arc<ListenerAddressBook>),
    /// The address that the client itself used.
    ClientAuthority,
}

/// A gRPC listener for clients.
#[derive(Debug, Clone)]
pub struct ClientListener {
    /// Its name in metrics and logs.
    pub name: Arc<str>,
    /// Which addresses it answers with.
    pub answers: AddressAnswers,
    /// The address that this agent advertises.
    pub own_address: Arc<str>,
}

/// Where a call came from. Each listener attaches it to its calls.
#[derive(Debug, Clone)]
pub struct CallOrigin {
    answers: CallAnswers,
    /// Whether another agent has forwarded the call; with the IP address of its client.
    forwarded_for: Option<Arc<str>>,
}

/// The addresses that the answer to one call has.
#[derive(Debug, Clone)]
enum CallAnswers {
    Advertised,
    Listed {
        addresses: Arc<ListenerAddresses>,
        /// The address of an agent that the file gives none.
        otherwise: Arc<str>,
    },
}

impl Default for CallOrigin {
    fn default() -> Self {
        Self {
            answers: CallAnswers::Advertised,
            forwarded_for: None,
        }
    }
}

impl CallOrigin {
    /// Returns the origin that a listener attached to a call.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Returns the origin of a call with these headers that came by `listener`.
    pub fn new(listener: &ClientListener, uri: &Uri, headers: &HeaderMap) -> Self {
        let addresses = match &listener.answers {
            AddressAnswers::Advertised => None,
            AddressAnswers::Listed(book) => Some(book.addresses(&listener.name)),
            AddressAnswers::ClientAuthority => Some(Arc::default()),
        };
        let answers = addresses.map_or(CallAnswers::Advertised, |addresses| {
            let otherwise = match &addresses.shared {
                Some(shared) => Arc::from(shared.as_str()),
                None => client_authority(uri, headers).unwrap_or_else(|| listener.own_address.clone()),
            };
            CallAnswers::Listed { addresses, otherwise }
        });
        let forwarded_for = headers.get(FORWARDED_HEADER);
        Self {
            answers,
            forwarded_for: forwarded_for.map(|client| {
                let address = client
                    .to_str()
                    .ok()
                    .and_then(|client| client.parse::<IpAddr>().ok());
                address.map_or_else(|| "unknown".into(), |address| address.to_string().into())
            }),
        }
    }

    /// Makes the call one that another agent, which has proven to be one, has forwarded for the
    /// client with this address, or one that none has.
    pub fn set_forwarded(&mut self, client: Option<Option<IpAddr>>) {
        self.forwarded_for = client.map(|client| match client {
            None => "unknown".into(),
            Some(client) => client.to_string().into(),
        });
    }

    /// Returns whether the call may be forwarded to the agent that leads: it came by a listener
    /// whose clients may not reach that agent, and no agent has forwarded it before.
    pub fn may_forward(&self) -> bool {
        self.forwarded_for.is_none() && matches!(self.answers, CallAnswers::Listed { .. })
    }

    /// Returns whether another agent has forwarded the call.
    pub fn is_forwarded(&self) -> bool {
        self.forwarded_for.is_some()
    }

    /// Returns the IP address of the client of a forwarded call.
    pub fn forwarded_for(&self) -> Option<&str> {
        self.forwarded_for.as_deref()
    }

    /// Returns the address at which the caller reaches an agent that advertises `advertised`.
    pub fn address_of<'a>(&'a self, agent_id: &str, advertised: &'a str) -> &'a str {
        match &self.answers {
            CallAnswers::Advertised => advertised,
            CallAnswers::Listed { addresses, otherwise } => addresses
                .agents
                .get(agent_id)
                .map_or(&**otherwise, String::as_str),
        }
    }

    /// Replaces the address of a leader or coordinator, if there is one.
    pub fn translate_leader(&self, leader: &mut Option<v1::Leader>) {
        if let Some(leader) = leader
            && !leader.agent_id.is_empty()
        {
            leader.address = self.address_of(&leader.agent_id, &leader.address).to_owned();
        }
    }

    /// Replaces the addresses of agents.
    pub fn translate_agents(&self, agents: &mut [v1::AgentDescription]) {
        for agent in agents {
            agent.grpc_address = self.address_of(&agent.agent_id, &agent.grpc_address).to_owned();
        }
    }
}

/// Returns the address that the client used, if it can be given to clients.
fn client_authority(uri: &Uri, headers: &HeaderMap) -> Option<Arc<str>> {
    let host = || headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(host)?;
    parse_client_address(authority).map(Arc::from)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const OWN: &str = "10.0.0.1:50051";
    const OTHER: &str = "10.0.0.2:50051";

    fn listener(answers: AddressAnswers) -> ClientListener {
        ClientListener {
            name: "external".into(),
            answers,
            own_address: OWN.into(),
        }
    }

    /// Returns the origin of a call to this URI with a `host` header.
    fn origin(answers: AddressAnswers, uri: &str, host: Option<&str>) -> CallOrigin {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(HOST, host.parse().unwrap());
        }
        CallOrigin::new(&listener(answers), &uri.parse().unwrap(), &headers)
    }

    async fn book(file: &str) -> AddressAnswers {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("listeners.yaml");
        std::fs::write(&path, file).unwrap();
        let metrics = Arc::new(crate::metrics::AgentMetrics::new().unwrap());
        let reader = super::super::ListenersFileReader::load(&path, &metrics).await;
        AddressAnswers::Listed(reader.unwrap().address_book().clone())
    }

    /// Returns the addresses of the agents `one` and `two` in an answer.
    fn addresses(origin: &CallOrigin) -> [String; 2] {
        let mut agents = [("one", OWN), ("two", OTHER)].map(|(id, address)| v1::AgentDescription {
            agent_id: id.to_owned(),
            grpc_address: address.to_owned(),
            ..Default::default()
        });
        origin.translate_agents(&mut agents);
        agents.map(|agent| agent.grpc_address)
    }

    #[tokio::test]
    async fn each_listener_of_the_file_answers_with_its_own_addresses() {
        let two = "agents: {two: 'node2:31002'}";
        for (what, fields, uri, host, expected) in [
            (
                "a shared address",
                format!(", address: 'lb:9094', {two}"),
                "http://a:1/x",
                None,
                ["lb:9094", "node2:31002"],
            ),
            (
                "no shared address",
                format!(", {two}"),
                "http://a:1/x",
                None,
                ["a:1", "node2:31002"],
            ),
            ("no address", String::new(), "http://a:1/x", None, ["a:1", "a:1"]),
            (
                "only a host header",
                String::new(),
                "/x",
                Some("b:2"),
                ["b:2", "b:2"],
            ),
            ("no authority", String::new(), "/x", None, [OWN, OWN]),
            ("no port", String::new(), "http://a/x", None, [OWN, OWN]),
        ] {
            let file = format!("listeners: [{{name: external, listen: 'x:1'{fields}}}]");
            let origin = origin(book(&file).await, uri, host);
            assert_eq!(addresses(&origin), expected, "{what}");
            assert!(origin.may_forward(), "{what}");
        }
        let gone = origin(book("listeners: []").await, "http://a:1/x", None);
        assert_eq!(addresses(&gone), ["a:1", "a:1"], "not in the file any more");
    }

    #[test]
    fn the_built_in_listeners_answer_with_advertised_addresses_and_with_the_clients() {
        let builtin = origin(AddressAnswers::Advertised, "http://a:1/x", None);
        assert_eq!(addresses(&builtin), [OWN, OTHER]);
        assert!(!builtin.may_forward());
        for (uri, host, expected) in [
            ("http://localhost:7000/x", None, "localhost:7000"),
            ("http://[::1]:7000/x", None, "[::1]:7000"),
            ("http://me@a:1/x", None, OWN),
            ("/x", Some("a b:1"), OWN),
        ] {
            let origin = origin(AddressAnswers::ClientAuthority, uri, host);
            assert_eq!(addresses(&origin), [expected, expected], "{uri}");
            assert!(origin.may_forward());
        }
    }

    #[test]
    fn a_leader_that_is_not_known_has_no_address() {
        let origin = origin(AddressAnswers::ClientAuthority, "http://a:1/x", None);
        let mut none = Some(v1::Leader::default());
        origin.translate_leader(&mut none);
        assert_eq!(none, Some(v1::Leader::default()));
        let mut leader = Some(v1::Leader {
            agent_id: "two".to_owned(),
            epoch: 3,
            address: "10.0.0.2:50051".to_owned(),
        });
        origin.translate_leader(&mut leader);
        assert_eq!(leader.unwrap().address, "a:1");
    }

    #[test]
    fn a_forwarded_call_is_not_forwarded_again() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_HEADER, HeaderValue::from_static("192.0.2.7"));
        let listener = listener(AddressAnswers::ClientAuthority);
        let origin = CallOrigin::new(&listener, &"http://a:1/x".parse().unwrap(), &headers);
        assert!(!origin.may_forward());
        assert_eq!(origin.forwarded_for(), Some("192.0.2.7"));
    }
}
