//! What is kept of a password: its form, its bounds, and that nobody sees it.

use super::*;

#[test]
fn salts_are_written_as_by_kafka() {
    let entropy = CountingEntropy(AtomicU64::new(1));
    for _ in 0..200 {
        let salt = String::from_utf8(generate_scram_salt(&entropy)).unwrap();
        assert!((18..=26).contains(&salt.len()), "{salt}");
        assert!(
            salt.bytes()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        );
    }
    let mut seed = [0; credential::SALT_SEED_LEN];
    assert_eq!(credential::salt_from_seed(seed), b"0");
    seed[credential::SALT_SEED_LEN - 2] = 1;
    assert_eq!(credential::salt_from_seed(seed), b"74");
    // 2^130 - 1 in base 36.
    let largest = credential::salt_from_seed([0xff; credential::SALT_SEED_LEN]);
    assert_eq!(largest, b"1omfro7zwmumr3umxudzyj6scf");
}

#[test]
fn credentials_have_the_bounds_of_kafka() {
    let sha256 = ScramMechanism::Sha256;
    let derive = |salt: &[u8], iterations| ScramCredential::derive(sha256, "p", salt.to_vec(), iterations);
    for iterations in [4096, 16384] {
        assert_eq!(derive(b"s", iterations).unwrap().iterations(), iterations);
    }
    for iterations in [0, 1, 4095, 16385, u32::MAX] {
        assert_eq!(derive(b"s", iterations), Err(ScramError::Iterations(iterations)));
    }
    let decoy = decoys().credential(sha256, "user");
    assert_eq!(decoy.iterations(), MIN_SCRAM_ITERATIONS);
    assert!(derive(b"", 4096).is_err() && derive(&[1; 1025], 4096).is_err());
    for length in [0, 31, 33, 64] {
        let error = ScramCredential::from_salted_password(sha256, b"s".to_vec(), 4096, &vec![1; length]);
        assert_eq!(error, Err(ScramError::KeyLength { length, expected: 32 }));
    }
    for mechanism in ScramMechanism::ALL {
        assert_eq!(mechanism.name().parse(), Ok(mechanism));
        assert_eq!(ScramMechanism::from_code(mechanism.code()), Some(mechanism));
    }
    assert!("scram-sha-256".parse::<ScramMechanism>().is_err());
    assert_eq!(ScramMechanism::from_code(0), None);
}

#[test]
fn a_password_can_be_checked_against_its_verifier() {
    for mechanism in ScramMechanism::ALL {
        let known = credential(mechanism, "pencil");
        assert!(known.is_password("pencil"));
        for wrong in ["", "Pencil", "pencil ", "penci"] {
            assert!(!known.is_password(wrong));
        }
        assert!(!decoys().credential(mechanism, "user").is_password("pencil"));
        let stored =
            ScramCredential::from_keys(mechanism, b"salt".to_vec(), ITERATIONS, known.keys().clone());
        assert_eq!(stored, Ok(known));
    }
}

#[test]
fn nothing_secret_is_in_debug_output() {
    let known = credential(ScramMechanism::Sha256, "hunter2");
    let client = ScramClient::with_nonce(ScramMechanism::Sha256, "u", "hunter2", "c".to_owned()).unwrap();
    let shown = format!("{known:?} {:?} {:?} {client:?}", known.keys(), decoys());
    assert_eq!(
        shown,
        "ScramCredential { mechanism: Sha256, iterations: 4096, .. } ScramKeys { .. } ScramDecoys { .. } \
         ScramClient { mechanism: Sha256, .. }"
    );
}
