//! Published exchanges, wrong proofs, messages that are damaged or sent again, and both sides
//! against each other.

mod credentials;

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::{credential::generate_scram_salt, *};
use crate::{
    security::scram::message::{encode_base64, escape_name},
    time::Entropy,
};

const ITERATIONS: u32 = MIN_SCRAM_ITERATIONS;

/// Numbers that differ, and are the same in every run.
#[derive(Debug, Default)]
struct CountingEntropy(AtomicU64);

impl Entropy for CountingEntropy {
    fn next_u64(&self) -> u64 {
        self.0
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

fn decoys() -> ScramDecoys {
    ScramDecoys::new(b"secret of the cluster")
}

fn credential(mechanism: ScramMechanism, password: &str) -> ScramCredential {
    ScramCredential::derive(mechanism, password, b"salt".to_vec(), ITERATIONS).unwrap()
}

/// A published exchange of the user `user` with the password `pencil`.
struct PublishedExchange {
    mechanism: ScramMechanism,
    server_nonce: &'static str,
    salt: &'static str,
    proof: &'static str,
    signature: &'static str,
}

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

const PUBLISHED: [PublishedExchange; 2] = [
    // RFC 7677, section 3.
    PublishedExchange {
        mechanism: ScramMechanism::Sha256,
        server_nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
        proof: "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        signature: "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    },
    // As in the tests of Apache Qpid, ScramSHA512MechanismTest: no RFC has one.
    PublishedExchange {
        mechanism: ScramMechanism::Sha512,
        server_nonce: "02431b08-2f89-4bad-a4e6-80c0564ec865",
        salt: "Yin2FuHTt/M0kJWb0t9OI32n2VmOGi3m+JfjOvuDF88=",
        proof: "Hc5yec3NmCD7t+kFRw4/3yD6/F3SQHc7AVYschRja+Bc3sbdjlA0eH1OjJc0DD4ghn1tnXN5/Wr6qm9xmaHt4A==",
        signature: "BQuhnKHqYDwQWS5jAw4sZed+C9KFUALsbrq81bB0mh+bcUUbbMPNNmBIupnS2AmyyDnG5CTBQtkjJ9kyY4kzmw==",
    },
];

impl PublishedExchange {
    fn client_first(&self) -> String {
        format!("n,,n=user,r={CLIENT_NONCE}")
    }

    fn server_first(&self) -> String {
        format!("r={CLIENT_NONCE}{},s={},i=4096", self.server_nonce, self.salt)
    }

    fn client_final(&self) -> String {
        format!("c=biws,r={CLIENT_NONCE}{},p={}", self.server_nonce, self.proof)
    }

    fn credential(&self) -> ScramCredential {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let salt = BASE64_STANDARD.decode(self.salt).unwrap();
        ScramCredential::derive(self.mechanism, "pencil", salt, 4096).unwrap()
    }

    fn challenge(&self) -> ScramChallenge {
        let server = ScramServer::begin(self.mechanism, self.client_first().as_bytes()).unwrap();
        assert_eq!(server.user(), "user");
        server.challenge_with_nonce(Some(&self.credential()), &decoys(), self.server_nonce)
    }
}

#[test]
fn published_exchanges_hold_for_both_sides() {
    for exchange in &PUBLISHED {
        let client =
            ScramClient::with_nonce(exchange.mechanism, "user", "pencil", CLIENT_NONCE.to_owned()).unwrap();
        assert_eq!(client.first_message(), exchange.client_first());
        let challenge = exchange.challenge();
        assert_eq!(challenge.message(), exchange.server_first());
        let proof = client.respond(challenge.message().as_bytes()).unwrap();
        assert_eq!(proof.message(), exchange.client_final());
        let authenticated = challenge.verify(proof.message().as_bytes()).unwrap();
        assert_eq!(authenticated.user(), "user");
        assert_eq!(authenticated.message(), format!("v={}", exchange.signature));
        proof.verify(authenticated.message().as_bytes()).unwrap();
    }
}

#[test]
fn every_other_proof_is_wrong() {
    for exchange in &PUBLISHED {
        let right = exchange.client_final();
        let refused = |message: &str| exchange.challenge().verify(message.as_bytes()).unwrap_err();
        let proof_at = right.len() - exchange.proof.len();
        for replaced in [
            "",
            "AAAA",
            exchange.signature,
            &exchange.proof.replacen(['H', 'd'], "e", 1),
        ] {
            let message = format!("{}{replaced}", &right[..proof_at]);
            assert_eq!(refused(&message), ScramError::InvalidProof, "{message}");
        }
        let longer = format!("{}AAAA{}", &right[..proof_at], exchange.proof);
        assert_eq!(refused(&longer), ScramError::InvalidProof);
        // Another password.
        let client =
            ScramClient::with_nonce(exchange.mechanism, "user", "pencils", CLIENT_NONCE.to_owned()).unwrap();
        let wrong = client.respond(exchange.server_first().as_bytes()).unwrap();
        assert_eq!(refused(wrong.message()), ScramError::InvalidProof);
    }
}

#[test]
fn a_message_that_is_cut_or_changed_anywhere_proves_nothing() {
    for exchange in &PUBLISHED {
        let right = exchange.client_final();
        for at in 0..right.len() {
            assert!(exchange.challenge().verify(&right.as_bytes()[..at]).is_err());
            let mut changed = right.clone().into_bytes();
            changed[at] ^= 1;
            assert!(exchange.challenge().verify(&changed).is_err(), "{at}");
        }
    }
}

#[test]
fn a_proof_of_another_exchange_is_refused() {
    for exchange in &PUBLISHED {
        let server = ScramServer::begin(exchange.mechanism, exchange.client_first().as_bytes()).unwrap();
        let next = server.challenge(
            Some(&exchange.credential()),
            &decoys(),
            &CountingEntropy::default(),
        );
        let replayed = next.verify(exchange.client_final().as_bytes());
        assert_eq!(replayed.unwrap_err(), ScramError::NonceMismatch);
        for nonce in [
            CLIENT_NONCE.to_owned(),
            format!("{CLIENT_NONCE}{}x", exchange.server_nonce),
            exchange.server_nonce.to_owned(),
        ] {
            let message = format!("c=biws,r={nonce},p={}", exchange.proof);
            let error = exchange.challenge().verify(message.as_bytes()).unwrap_err();
            assert_eq!(error, ScramError::NonceMismatch);
        }
    }
}

#[test]
fn nonces_are_fresh() {
    let entropy = CountingEntropy::default();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let client = ScramClient::new(ScramMechanism::Sha256, "u", "p", &entropy).unwrap();
        assert!(seen.insert(client.first_message()));
        let server = ScramServer::begin(ScramMechanism::Sha256, client.first_message().as_bytes()).unwrap();
        let challenge = server.challenge(None, &decoys(), &entropy);
        assert!(seen.insert(challenge.message().to_owned()));
    }
}

fn begin(message: &str) -> Result<ScramServer, ScramError> {
    ScramServer::begin(ScramMechanism::Sha256, message.as_bytes())
}

#[test]
fn first_messages_are_read_as_the_grammar_has_them() {
    for (message, user) in [
        ("n,,n=user,r=x", "user"),
        ("y,,n=user,r=x", "user"),
        ("n,a=user,n=user,r=x", "user"),
        ("n,a=a=2Cb,n=a=2Cb,r=x", "a,b"),
        ("n,,n==3D=2C=3D2C,r=x", "=,=2C"),
        ("n,,n=zürich 🦀,r=!~", "zürich 🦀"),
        ("n,,n=user,r=x,ext=a=b,other=1", "user"),
        ("n,,n=user,r=x,tokenauth=false", "user"),
    ] {
        assert_eq!(begin(message).unwrap().user(), user, "{message}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    for (message, error) in [
        ("p=tls-unique,,n=user,r=x", ScramError::ChannelBinding),
        ("n,,m=ext,n=user,r=x", ScramError::MandatoryExtension),
        ("n,,n=user,r=x,tokenauth=true", ScramError::DelegationToken),
        ("n,,n=user,r=x,a=1,tokenauth=TRUE", ScramError::DelegationToken),
        ("n,a=root,n=user,r=x", ScramError::AuthorizationId),
    ] {
        assert_eq!(begin(message).unwrap_err(), error, "{message}");
    }
    let malformed = [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=user",
        "n,,r=x,n=user",
        "n,,n=,r=x",
        "n,,n=user,r=",
        "n,,n=user,r=a b",
        "n,,n=user,r=é",
        "n,,n=us=er,r=x",
        "n,,n=us=2c,r=x",
        "n,,n=user=,r=x",
        "n,,n=user,r=x,",
        "n,,n=user,r=x,ext",
        "n,,n=user,r=x,ext=",
        "n,,n=user,r=x,e1=a",
        "n,user,n=user,r=x",
        "n,a=,n=user,r=x",
        "N,,n=user,r=x",
        "x,,n=user,r=x",
        " n,,n=user,r=x",
        "n,,n=us\0er,r=x",
    ];
    for message in malformed {
        let error = begin(message).unwrap_err();
        assert!(matches!(error, ScramError::Malformed(_)), "{message:?}: {error}");
    }
    assert!(begin(&format!("n,,n={},r=x", "u".repeat(10_000))).is_err());
    assert!(ScramServer::begin(ScramMechanism::Sha256, b"n,,n=\xff,r=x").is_err());
}

/// Returns how an exchange ends that a client with a header of its own begins.
fn exchange_with_header(first: &str, last: &str) -> Result<ScramAuthenticated, ScramError> {
    let known = credential(ScramMechanism::Sha256, "p");
    let bare = "n=u,r=c";
    let server = begin(&format!("{first}{bare}")).unwrap();
    let challenge = server.challenge_with_nonce(Some(&known), &decoys(), "s");
    let without_proof = format!("c={},r=cs", encode_base64(last.as_bytes()));
    let signed = format!("{bare},{},{without_proof}", challenge.message());
    let mechanism = ScramMechanism::Sha256;
    let salted = mechanism.salted_password("p", b"salt", ITERATIONS.try_into().unwrap());
    let client_key = mechanism.client_key(&salted);
    let signature = mechanism.sign(&mechanism.stored_key(&client_key), signed.as_bytes());
    let proof = encode_base64(&crypto::xor(&client_key, &signature));
    challenge.verify(format!("{without_proof},p={proof}").as_bytes())
}

#[test]
fn a_downgrade_of_channel_binding_is_noticed() {
    for header in ["n,,", "y,,", "n,a=u,"] {
        assert!(exchange_with_header(header, header).is_ok());
    }
    for (first, last) in [("n,,", "y,,"), ("y,,", "n,,"), ("n,a=u,", "n,,"), ("n,,", "")] {
        let error = exchange_with_header(first, last).unwrap_err();
        assert_eq!(error, ScramError::ChannelBindingMismatch);
    }
}

#[test]
fn a_user_that_does_not_exist_looks_like_one_with_another_password() {
    let first = |user: &str| {
        let server = begin(&format!("n,,n={user},r=c")).unwrap();
        server.challenge_with_nonce(None, &decoys(), "s")
    };
    let salt = |challenge: &ScramChallenge| challenge.message().to_owned();
    assert_eq!(salt(&first("bob")), salt(&first("bob")), "the same each time");
    assert_ne!(salt(&first("bob")), salt(&first("eve")));
    let other_cluster = ScramDecoys::new(b"another");
    let other = begin("n,,n=bob,r=c")
        .unwrap()
        .challenge_with_nonce(None, &other_cluster, "s");
    assert_ne!(salt(&first("bob")), salt(&other));
    let client = ScramClient::with_nonce(ScramMechanism::Sha256, "bob", "p", "c".to_owned()).unwrap();
    let proof = client.respond(first("bob").message().as_bytes()).unwrap();
    let error = first("bob").verify(proof.message().as_bytes()).unwrap_err();
    assert_eq!(error, ScramError::InvalidProof);
    // A verifier of another mechanism is none.
    let wrong = credential(ScramMechanism::Sha512, "p");
    let challenge = begin("n,,n=bob,r=c")
        .unwrap()
        .challenge_with_nonce(Some(&wrong), &decoys(), "s");
    assert_eq!(challenge.message(), first("bob").message());
    assert_eq!(
        challenge.verify(proof.message().as_bytes()).unwrap_err(),
        ScramError::InvalidProof
    );
}

#[test]
fn a_client_trusts_a_server_only_with_the_right_signature() {
    let exchange = &PUBLISHED[0];
    let client = || {
        let nonce = CLIENT_NONCE.to_owned();
        ScramClient::with_nonce(exchange.mechanism, "user", "pencil", nonce).unwrap()
    };
    let verify = |last: &str| {
        let proof = client().respond(exchange.server_first().as_bytes()).unwrap();
        proof.verify(last.as_bytes())
    };
    assert_eq!(verify(&format!("v={}", exchange.signature)), Ok(()));
    assert_eq!(verify(&format!("v={},ext=1", exchange.signature)), Ok(()));
    for wrong in ["v=", "v=AAAA", &format!("v={}", exchange.proof)] {
        assert_eq!(verify(wrong), Err(ScramError::InvalidServerSignature));
    }
    let refused = ScramError::RefusedByServer("invalid-proof".to_owned());
    assert_eq!(verify("e=invalid-proof"), Err(refused));
    for malformed in ["", "x=1", "v", exchange.signature] {
        assert!(
            matches!(verify(malformed), Err(ScramError::Malformed(_))),
            "{malformed}"
        );
    }
    for (challenge, error) in [
        (
            format!("r={CLIENT_NONCE},s=AAAA,i=4096"),
            ScramError::NonceMismatch,
        ),
        ("r=other,s=AAAA,i=4096".to_owned(), ScramError::NonceMismatch),
        (
            format!("r={CLIENT_NONCE}x,s=AAAA,i=4095"),
            ScramError::Iterations(4095),
        ),
        (
            format!("r={CLIENT_NONCE}x,s=AAAA,i=2000000000"),
            ScramError::Iterations(2_000_000_000),
        ),
        (
            format!("m=x,r={CLIENT_NONCE}x,s=AAAA,i=4096"),
            ScramError::MandatoryExtension,
        ),
    ] {
        assert_eq!(client().respond(challenge.as_bytes()).unwrap_err(), error);
    }
    for malformed in [
        format!("r={CLIENT_NONCE}x,s=,i=4096"),
        format!("r={CLIENT_NONCE}x,s=A,i=4096"),
        format!("r={CLIENT_NONCE}x,s=AAAA,i=+4096"),
        format!("r={CLIENT_NONCE}x,s=AAAA,i=-1"),
        format!("r={CLIENT_NONCE}x,i=4096,s=AAAA"),
    ] {
        let error = client().respond(malformed.as_bytes()).unwrap_err();
        assert!(matches!(error, ScramError::Malformed(_)), "{malformed}");
    }
    for user in ["", "a\0b"] {
        let entropy = CountingEntropy::default();
        assert!(ScramClient::new(exchange.mechanism, user, "p", &entropy).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_sides_agree_exactly_if_the_password_is_right(
        user in "[^\0]{1,20}",
        password: String,
        other in ".{0,8}",
        sha512: bool,
        seed: u64,
    ) {
        let mechanism = if sha512 { ScramMechanism::Sha512 } else { ScramMechanism::Sha256 };
        let entropy = CountingEntropy(AtomicU64::new(seed));
        let salt = generate_scram_salt(&entropy);
        let known = ScramCredential::derive(mechanism, &password, salt, ITERATIONS).unwrap();
        for tried in [&password, &other] {
            let client = ScramClient::new(mechanism, &user, tried, &entropy).unwrap();
            let server = ScramServer::begin(mechanism, client.first_message().as_bytes()).unwrap();
            prop_assert_eq!(server.user(), &user);
            let challenge = server.challenge(Some(&known), &decoys(), &entropy);
            let proof = client.respond(challenge.message().as_bytes()).unwrap();
            let outcome = challenge.verify(proof.message().as_bytes());
            prop_assert_eq!(outcome.is_ok(), *tried == password);
            prop_assert_eq!(known.is_password(tried), *tried == password);
            if let Ok(authenticated) = outcome {
                prop_assert_eq!(authenticated.user(), &user);
                prop_assert_eq!(proof.verify(authenticated.message().as_bytes()), Ok(()));
            }
        }
        prop_assert!(!escape_name(&user).contains(','));
    }

    #[test]
    fn damaged_messages_neither_panic_nor_prove_anything(
        at: prop::sample::Index,
        inserted in prop::collection::vec(any::<u8>(), 0..4),
        removed in 0_usize..4,
        random: Vec<u8>,
    ) {
        let damage = |message: &str| {
            let mut bytes = message.as_bytes().to_vec();
            let start = at.index(bytes.len());
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, inserted.iter().copied());
            bytes
        };
        for exchange in &PUBLISHED {
            for message in [damage(&exchange.client_first()), random.clone()] {
                let _ = ScramServer::begin(exchange.mechanism, &message);
            }
            let client = || ScramClient::with_nonce(exchange.mechanism, "user", "pencil", CLIENT_NONCE.to_owned()).unwrap();
            for message in [damage(&exchange.server_first()), random.clone()] {
                let read = message::ServerFirstMessage::read(&message);
                let is_slow = read.is_ok_and(|challenge| challenge.iterations > 2 * ITERATIONS);
                if !is_slow {
                    let _ = client().respond(&message);
                }
            }
            let right = exchange.client_final();
            for message in [damage(&right), random.clone()] {
                let outcome = exchange.challenge().verify(&message);
                prop_assert!(outcome.is_err() || message == right.as_bytes());
            }
            let last = format!("v={}", exchange.signature);
            for message in [damage(&last), random.clone()] {
                let proof = client().respond(exchange.server_first().as_bytes()).unwrap();
                let outcome = proof.verify(&message);
                prop_assert!(outcome.is_err() || message.starts_with(last.as_bytes()));
            }
        }
    }
}
