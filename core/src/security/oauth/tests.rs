//! Tokens of every algorithm, and what is wrong with those that are refused.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::hmac;
use serde_json::{Value, json};
use streamhouse_testkit::TokenIssuer;

use super::*;

/// An RSA key of tests, in PKCS #8.
const RSA_KEY: &[u8] = include_bytes!("tests/rsa.pk8");
const NOW_MS: i64 = 1_700_000_000_000;
const NOW: i64 = NOW_MS / 1000;

fn rules() -> TokenRules {
    TokenRules::new("https://id.example", "streamhouse")
}

fn claims() -> Value {
    json!({ "iss": "https://id.example", "aud": "streamhouse", "sub": "alice", "exp": NOW + 600 })
}

/// Returns the claims with another value of one; without it if it is null.
fn with_claim(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn key_set(keys: &[Value]) -> JwkSet {
    JwkSet::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn verify(token: &str, keys: &[Value]) -> Result<VerifiedToken, TokenError> {
    rules().verify(token, &key_set(keys), NOW_MS)
}

#[test]
fn tokens_of_every_algorithm_are_verified() {
    let rsa = TokenIssuer::rsa("rsa", RSA_KEY).unwrap();
    let issuers = [
        (TokenIssuer::new("ed").unwrap(), &["EdDSA"][..]),
        (TokenIssuer::p256("p256").unwrap(), &["ES256"]),
        (TokenIssuer::p384("p384").unwrap(), &["ES384"]),
        (rsa, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
    ];
    let keys: Vec<Value> = issuers.iter().map(|(issuer, _)| issuer.jwk()).collect();
    for (issuer, algorithms) in &issuers {
        for algorithm in *algorithms {
            let kid = issuer.jwk()["kid"].clone();
            let sign = |header: Value| issuer.sign_with(&header, &claims()).unwrap();
            for header in [
                json!({ "alg": algorithm, "kid": kid, "typ": "at+jwt" }),
                json!({ "alg": algorithm }),
            ] {
                let verified = verify(&sign(header), &keys).unwrap();
                assert_eq!(verified.principal.to_string(), "User:alice", "{algorithm}");
                assert_eq!(verified.expires_at_ms, NOW_MS + 600_000);
            }
            for other in algorithms.iter().filter(|other| *other != algorithm) {
                let token = sign(json!({ "alg": algorithm, "kid": kid }));
                let (_, rest) = token.split_once('.').unwrap();
                let header = json!({ "alg": other, "kid": kid }).to_string();
                let renamed = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
                assert_eq!(verify(&renamed, &keys), Err(TokenError::Signature));
            }
        }
    }
}

#[test]
fn algorithms_without_a_private_key_are_never_accepted() {
    let rsa = TokenIssuer::rsa("k", RSA_KEY).unwrap();
    let keys = [rsa.jwk()];
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for algorithm in [
        "none", "None", "NONE", "HS256", "HS384", "HS512", "rs256", "ES256K", "",
    ] {
        let header = json!({ "alg": algorithm, "kid": "k" });
        let signed = format!("{}.{}", part(&header), part(&claims()));
        // With the public key as the secret, in each form that an attacker has it.
        let public = rsa.jwk().to_string();
        let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
        for secret in [public.as_bytes(), modulus.as_bytes(), b""] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
            for signature in [tag.as_ref(), b""] {
                let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
                assert_eq!(verify(&token, &keys), Err(TokenError::Algorithm), "{algorithm}");
            }
        }
    }
    let secret = json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256" });
    let set = json!({ "keys": [secret] }).to_string();
    assert_eq!(JwkSet::read(set.as_bytes()), Err(JwkSetError::NoKeys));
}

#[test]
fn an_algorithm_must_fit_the_key() {
    let (rsa, p256) = (
        TokenIssuer::rsa("k", RSA_KEY).unwrap(),
        TokenIssuer::p256("k").unwrap(),
    );
    let header = |algorithm: &str| json!({ "alg": algorithm, "kid": "k" });
    for (issuer, algorithm, keys) in [
        (&rsa, "RS256", [p256.jwk()]),
        (&p256, "ES256", [rsa.jwk()]),
        (&p256, "ES384", [p256.jwk()]),
        (&rsa, "EdDSA", [rsa.jwk()]),
    ] {
        let token = issuer.sign_with(&header(algorithm), &claims()).unwrap();
        assert_eq!(verify(&token, &keys), Err(TokenError::UnknownKey), "{algorithm}");
    }
    // A key may name the one algorithm that it is for.
    let mut key = rsa.jwk();
    key["alg"] = json!("PS256");
    for (algorithm, is_right) in [("PS256", true), ("RS256", false)] {
        let token = rsa.sign_with(&header(algorithm), &claims()).unwrap();
        assert_eq!(verify(&token, &[key.clone()]).is_ok(), is_right, "{algorithm}");
    }
    for (field, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("ES256")),
        ("n", json!("AQAB")),
        ("n", json!("!")),
        ("e", json!("")),
        ("kid", json!(7)),
    ] {
        let mut key = rsa.jwk();
        key[field] = value;
        let set = json!({ "keys": [key] }).to_string();
        assert_eq!(JwkSet::read(set.as_bytes()), Err(JwkSetError::NoKeys), "{field}");
    }
}

#[test]
fn the_key_id_selects_the_key() {
    let (one, two) = (TokenIssuer::new("one").unwrap(), TokenIssuer::new("two").unwrap());
    let keys = [one.jwk(), two.jwk()];
    assert!(verify(&two.sign(&claims()).unwrap(), &keys).is_ok());
    let sign = |header: Value| one.sign_with(&header, &claims()).unwrap();
    for (header, error) in [
        (json!({ "alg": "EdDSA", "kid": "two" }), TokenError::Signature),
        (json!({ "alg": "EdDSA", "kid": "three" }), TokenError::UnknownKey),
        (json!({ "alg": "EdDSA", "kid": "" }), TokenError::UnknownKey),
        (json!({ "alg": "EdDSA" }), TokenError::AmbiguousKey),
        (
            json!({ "alg": "EdDSA", "kid": "one", "crit": ["exp"] }),
            TokenError::CriticalExtension,
        ),
        (json!({ "alg": "EdDSA", "kid": 1 }), TokenError::Malformed),
        (json!({ "kid": "one" }), TokenError::Malformed),
    ] {
        assert_eq!(verify(&sign(header.clone()), &keys), Err(error), "{header}");
    }
    let token = sign(json!({ "alg": "EdDSA" }));
    assert!(verify(&token, &[one.jwk(), TokenIssuer::p256("p").unwrap().jwk()]).is_ok());
    assert_eq!(
        verify(&one.sign(&claims()).unwrap(), &[one.jwk(), one.jwk()]),
        Err(TokenError::AmbiguousKey)
    );
}

#[test]
fn claims_decide_for_whom_and_when_a_token_is_valid() {
    let issuer = TokenIssuer::new("k").unwrap();
    let check = |claims: &Value| verify(&issuer.sign(claims).unwrap(), &[issuer.jwk()]).map(drop);
    for (name, value, expected) in [
        ("iss", json!("https://id.example/"), Err(TokenError::Issuer)),
        ("iss", Value::Null, Err(TokenError::Issuer)),
        ("iss", json!(["https://id.example"]), Err(TokenError::Issuer)),
        ("aud", json!("other"), Err(TokenError::Audience)),
        ("aud", Value::Null, Err(TokenError::Audience)),
        ("aud", json!([]), Err(TokenError::Audience)),
        ("aud", json!({ "streamhouse": true }), Err(TokenError::Audience)),
        ("aud", json!(["other", "streamhouse"]), Ok(())),
        ("exp", Value::Null, Err(TokenError::NoExpiry)),
        ("exp", json!("9999999999"), Err(TokenError::Malformed)),
        ("exp", json!(-1), Err(TokenError::Malformed)),
        ("exp", json!(NOW - 30), Err(TokenError::Expired)),
        ("exp", json!(NOW - 29), Ok(())),
        ("exp", json!(NOW as f64 - 29.5), Ok(())),
        ("exp", json!(1e300), Ok(())),
        ("nbf", json!(NOW + 31), Err(TokenError::NotYetValid)),
        ("nbf", json!(NOW + 30), Ok(())),
        ("nbf", json!("soon"), Err(TokenError::Malformed)),
        ("nbf", json!(1e300), Err(TokenError::NotYetValid)),
        ("sub", Value::Null, Err(TokenError::Principal)),
        ("sub", json!(""), Err(TokenError::Principal)),
        ("sub", json!(["alice"]), Err(TokenError::Principal)),
        ("sub", json!("*"), Err(TokenError::Principal)),
        ("sub", json!("ANONYMOUS"), Err(TokenError::Principal)),
        ("sub", json!("a\0b"), Err(TokenError::Principal)),
        ("sub", json!("x".repeat(1025)), Err(TokenError::Principal)),
        ("sub", json!("x".repeat(1024)), Ok(())),
    ] {
        assert_eq!(
            check(&with_claim(name, value.clone())),
            expected,
            "{name} {value}"
        );
    }
    let token = issuer.sign(&with_claim("client_id", json!("billing"))).unwrap();
    let by_client = rules().with_principal_claim("client_id");
    let verified = by_client.verify(&token, &key_set(&[issuer.jwk()]), NOW_MS);
    assert_eq!(verified.unwrap().principal.to_string(), "User:billing");
    let late = issuer.sign(&with_claim("exp", json!(NOW - 299))).unwrap();
    let patient = rules().with_clock_skew(Duration::from_secs(86_400));
    let verified = patient.verify(&late, &key_set(&[issuer.jwk()]), NOW_MS);
    assert!(verified.is_ok(), "five minutes at most");
    assert_eq!(patient.clock_skew_ms(), 300_000);
}

#[test]
fn what_is_no_token_is_refused() {
    let issuer = TokenIssuer::new("k").unwrap();
    let token = issuer.sign(&claims()).unwrap();
    let malformed = [
        "",
        ".",
        "..",
        "a.b.c",
        "a",
        &token[1..],
        &format!("{token}.x"),
        &token.replace('.', ""),
    ];
    for text in malformed {
        assert_eq!(
            verify(text, &[issuer.jwk()]),
            Err(TokenError::Malformed),
            "{text:?}"
        );
    }
    let list = issuer.sign(&json!([1])).unwrap();
    assert_eq!(verify(&list, &[issuer.jwk()]), Err(TokenError::Malformed));
    let huge = issuer.sign(&with_claim("roles", json!("x".repeat(MAX_TOKEN_BYTES))));
    assert_eq!(verify(&huge.unwrap(), &[issuer.jwk()]), Err(TokenError::TooLong));
}

#[test]
fn a_key_set_is_bounded() {
    let key = TokenIssuer::new("k").unwrap().jwk();
    let set = |count: usize| json!({ "keys": vec![key.clone(); count] }).to_string();
    assert_eq!(JwkSet::read(set(100).as_bytes()).unwrap().key_count(), 100);
    assert_eq!(JwkSet::read(set(101).as_bytes()), Err(JwkSetError::TooManyKeys));
    let large = format!("{}{}", set(1), " ".repeat(MAX_JWKS_BYTES));
    assert_eq!(JwkSet::read(large.as_bytes()), Err(JwkSetError::TooLarge));
    assert_eq!(JwkSet::read(br#"{"keys":[]}"#), Err(JwkSetError::NoKeys));
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]"#] {
        let error = JwkSet::read(text.as_bytes()).unwrap_err();
        assert!(matches!(error, JwkSetError::Malformed { .. }), "{text}");
    }
}

proptest! {
    #[test]
    fn no_other_token_is_verified(index: prop::sample::Index, bit in 0u8..6, text in "[a-zA-Z0-9._-]{0,60}") {
        let issuer = TokenIssuer::new("k").unwrap();
        let token = issuer.sign(&claims()).unwrap();
        let mut bytes = token.clone().into_bytes();
        let place = index.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let changed = String::from_utf8_lossy(&bytes).into_owned();
        prop_assert!(verify(&changed, &[issuer.jwk()]).is_err());
        prop_assert!(verify(&text, &[issuer.jwk()]).is_err());
        prop_assert!(verify(&token[..place], &[issuer.jwk()]).is_err());
        let _ = JwkSet::read(text.as_bytes());
    }
}
