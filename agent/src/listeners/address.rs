//! Addresses that clients are sent to.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest host name in DNS.
const MAX_HOST_BYTES: usize = 253;

/// Returns the address if clients can connect to it: `host:port` with a host name or an IP address
/// (IPv6 in brackets) and a port other than 0. What a client sends as the authority of its call is
/// sent back to clients only in this form.
pub fn parse_client_address(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let port_is_valid = digits && port.parse::<u16>().is_ok_and(|port| port > 0);
    (port_is_valid && is_host(host)).then_some(text)
}

fn is_host(host: &str) -> bool {
    if let Some(bare) = host.strip_prefix('[') {
        return bare
            .strip_suffix(']')
            .is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok());
    }
    let is_name = host.len() <= MAX_HOST_BYTES && host.split('.').all(is_name_label);
    is_name || host.parse::<Ipv4Addr>().is_ok()
}

fn is_name_label(label: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len())
        && label.bytes().all(legal)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Returns whether the text is a DNS label of at most `max` characters.
pub(super) fn is_dns_label(text: &str, max: usize) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=max).contains(&text.len())
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in [
            "localhost:50051",
            "broker.example.com:9094",
            "node_1.example:1",
            "10.0.0.7:65535",
            "[fd00::7]:50051",
        ] {
            assert_eq!(parse_client_address(good), Some(good));
        }
        let long = format!("{}:1", "a.".repeat(200));
        for bad in [
            "",
            ":1",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "fd00::7:1",
            "[fd00::7]",
            "[a]:1",
            "me@a:1",
            "a b:1",
            "a..b:1",
            "-a:1",
            "http://a:1",
            "a\n:1",
            "ä:1",
            &long,
        ] {
            assert_eq!(parse_client_address(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_back_can_stand_in_an_address(text in "[ -~]{0,40}(:[0-9]{0,6})?") {
            if let Some(address) = parse_client_address(&text) {
                let uri: axum::http::Uri = format!("http://{address}").parse().unwrap();
                prop_assert!(uri.port_u16().is_some_and(|port| port > 0));
                prop_assert_eq!(uri.path(), "/");
            }
        }
    }
}
