//! A plain HTTP GET, for health, metrics and readiness checks of local servers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// The response to a GET request.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// Status code, such as 200.
    pub status: u16,
    /// Header lines as sent, without the status line.
    pub headers: String,
    /// Body as text.
    pub body: String,
}

/// Sends a GET request for `path` to the server at `address`, for at most 10 s.
///
/// # Errors
///
/// Fails if the server does not respond in time or the response is not HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> anyhow::Result<HttpResponse> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // With HTTP/1.0 the body ends with the connection, so there are no chunks to decode.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("no whole answer from {address}{path}"))?;
    parse_response(&String::from_utf8_lossy(&answer))
        .with_context(|| format!("no HTTP answer from {address}{path}"))
}

fn parse_response(answer: &str) -> anyhow::Result<HttpResponse> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
    let (status_line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status code")?;
    Ok(HttpResponse {
        status,
        headers: headers.to_owned(),
        body: body.to_owned(),
    })
}
