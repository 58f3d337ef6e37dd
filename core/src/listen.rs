//! The address of a listener on every interface. `[::]` accepts IPv6 and, on Linux, IPv4; a host
//! without IPv6 cannot bind it. Used by the programs that listen: agents and the operator.

use std::io;

/// Prefix of an address that means every interface of both families.
const EVERY_INTERFACE: &str = "[::]:";
/// `EAFNOSUPPORT` on Linux and macOS, which has no [`io::ErrorKind`].
const FAMILY_NOT_SUPPORTED: [i32; 2] = [97, 47];

/// Returns the address to listen on instead after `address` could not be bound, if the host has no
/// IPv6 and `address` means every interface.
pub fn ipv4_fallback(address: &str, error: &io::Error) -> Option<String> {
    let port = address.strip_prefix(EVERY_INTERFACE)?;
    let without_ipv6 = error.kind() == io::ErrorKind::AddrNotAvailable
        || error
            .raw_os_error()
            .is_some_and(|code| FAMILY_NOT_SUPPORTED.contains(&code));
    without_ipv6.then(|| format!("0.0.0.0:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_ipv6_listens_on_ipv4() {
        for error in [
            io::Error::from_raw_os_error(97),
            io::Error::from(io::ErrorKind::AddrNotAvailable),
        ] {
            assert_eq!(
                ipv4_fallback("[::]:8080", &error).as_deref(),
                Some("0.0.0.0:8080")
            );
            assert_eq!(ipv4_fallback("[::1]:8080", &error), None, "not every interface");
        }
        let in_use = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(ipv4_fallback("[::]:8080", &in_use), None);
    }
}
