//! What a client that speaks plain text to a secure port is told. Without it, it would see a broken connection and guess.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The first byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 22;
/// How HTTP/2 without TLS begins.
const HTTP2: &[u8] = b"PRI";
const ADVICE: &str = "this port speaks TLS: use https://";
/// GOAWAY's reason for a connection that is not secure enough.
const INADEQUATE_SECURITY: u8 = 12;
/// How much of what the client still sends is read, so that the answer is not lost with the connection.
const READ: u64 = 64 << 10;

/// Looks at how the connection begins, without taking it. When that is not TLS, says so in the client's own language and
/// returns `true`: the connection is of no more use.
pub(super) async fn refused(stream: &mut TcpStream) -> io::Result<bool> {
    let mut begin = [0; HTTP2.len()];
    let seen = stream.peek(&mut begin).await?;
    let begin = &begin[..seen];
    if begin.first() == Some(&TLS_HANDSHAKE) {
        return Ok(false);
    }
    let answer = if begin == HTTP2 { go_away() } else { bad_request() };
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(READ), &mut tokio::io::sink()).await?;
    Ok(true)
}

/// For HTTP/1.
fn bad_request() -> Vec<u8> {
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ADVICE}\n",
        ADVICE.len() + 1
    )
    .into_bytes()
}

/// For HTTP/2: the server's SETTINGS, which must come first, and a GOAWAY.
fn go_away() -> Vec<u8> {
    let (settings, go_away) = (4, 7);
    let frame = |kind: u8, payload: &[u8]| {
        // Length in three bytes, type, no flags, stream 0. Payloads are short.
        let mut frame = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    let mut payload = vec![0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY];
    payload.extend_from_slice(ADVICE.as_bytes());
    [frame(settings, &[]), frame(go_away, &payload)].concat()
}
