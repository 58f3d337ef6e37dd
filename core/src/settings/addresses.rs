//! Addresses in settings: `host:port`.

use std::net::{IpAddr, Ipv6Addr};

/// Parses `host:port`. The port is mandatory, so it follows the last colon, and an IPv6 address
/// needs no brackets: a template that fills in a pod's address does not know the address family.
/// Brackets are added to the result, since all other code needs them.
///
/// # Errors
///
/// Fails if the text has no port or no host.
pub fn parse_address(text: &str) -> Result<String, String> {
    let refused = || format!("{text:?} is not host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    port.parse::<u16>().map_err(|_| refused())?;
    if host.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{host}]:{port}"));
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let legal = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']', '/', '@']),
    };
    legal.then(|| text.to_owned()).ok_or_else(refused)
}

/// Parses `host:port`, or `[IP].name:port`, where the IP address becomes a label of the host's
/// name: `[10.0.0.7].kafka.svc:9092` is `10-0-0-7.kafka.svc:9092`, the name that a cluster's DNS
/// server gives to a pod of a headless Service. A pod's template can fill in an address, and no
/// label.
pub(super) fn parse_named_address(text: &str) -> Result<String, String> {
    let parts = text.strip_prefix('[').and_then(|text| text.split_once("]."));
    match parts {
        Some((ip, name)) if ip.parse::<IpAddr>().is_ok() => {
            let label = ip.replace(['.', ':'], "-");
            parse_address(&format!("{label}.{name}"))
        }
        _ => parse_address(text),
    }
}

/// Parses an address that may be empty.
pub(super) fn parse_optional(
    text: &str,
    parse: fn(&str) -> Result<String, String>,
) -> Result<String, String> {
    if text.is_empty() {
        Ok(String::new())
    } else {
        parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_an_ipv6_address_gets_its_brackets() {
        for (given, taken) in [
            ("agent-0:50051", "agent-0:50051"),
            ("10.0.0.7:50051", "10.0.0.7:50051"),
            ("[fd00::7]:50051", "[fd00::7]:50051"),
            ("fd00::7:50051", "[fd00::7]:50051"),
            ("::1:1", "[::1]:1"),
            ("[::]:50051", "[::]:50051"),
        ] {
            assert_eq!(parse_address(given).as_deref(), Ok(taken));
            assert_eq!(parse_named_address(given).as_deref(), Ok(taken));
        }
        for bad in [
            "",
            "agent-0",
            ":1",
            "a:b",
            "a:99999",
            "a:b:1",
            "[a]:1",
            "[::1:1",
            "::1]:1",
            "[]:1",
            "http://a:1",
            "me@a:1",
        ] {
            assert!(parse_address(bad).unwrap_err().contains("host:port"), "{bad}");
            assert!(
                parse_named_address(bad).unwrap_err().contains("host:port"),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_address_of_a_pod_becomes_a_label_of_its_name() {
        for (given, taken) in [
            ("[10.0.0.7].kafka.svc:9092", "10-0-0-7.kafka.svc:9092"),
            ("[fd00::7].kafka.svc:9092", "fd00--7.kafka.svc:9092"),
        ] {
            assert_eq!(parse_named_address(given).as_deref(), Ok(taken));
        }
        for bad in [
            "[].kafka.svc:1",
            "[a].kafka.svc:1",
            "[10.0.0.7].kafka.svc",
            "[10.0.0.7].[a]:1",
        ] {
            assert!(
                parse_named_address(bad).unwrap_err().contains("host:port"),
                "{bad}"
            );
        }
    }
}
