//! What a client that speaks plain text to a secure port is told. Without it, it would see a broken connection and guess.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::TcpStream,
    time::{Duration, timeout},
};

/// The first byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 22;
/// How HTTP/2 without TLS begins.
const HTTP2: &[u8] = b"PRI";
/// How much of that comes before the first frame.
const PREFACE: usize = 24;
/// The frame that begins a request.
const HEADERS: u8 = 1;
/// How long a request is waited for. Clients tell their callers why a connection ended only for requests that were on it.
const REQUEST: Duration = Duration::from_secs(1);
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
    if begin == HTTP2 {
        // The server's SETTINGS must come first.
        stream.write_all(&frame(SETTINGS, &[])).await?;
        if let Ok(asked) = timeout(REQUEST, request(stream)).await {
            asked?;
        }
        stream.write_all(&go_away()).await?;
    } else {
        stream.write_all(&bad_request()).await?;
    }
    stream.shutdown().await?;
    copy(&mut stream.take(READ), &mut sink()).await?;
    Ok(true)
}

/// Reads until a request has begun, or much else came.
async fn request(stream: &mut TcpStream) -> io::Result<()> {
    let mut left = READ;
    stream.read_exact(&mut [0; PREFACE]).await?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        let [high, middle, low, kind, ..] = header;
        let length = u64::from(u32::from_be_bytes([0, high, middle, low]));
        if kind == HEADERS || length > left {
            return Ok(());
        }
        left -= length;
        copy(&mut stream.take(length), &mut sink()).await?;
    }
}

/// For HTTP/1.
fn bad_request() -> Vec<u8> {
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ADVICE}\n",
        ADVICE.len() + 1
    )
    .into_bytes()
}

/// Kinds of frames.
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;

/// A frame of HTTP/2: length in three bytes, kind, no flags, stream 0. Payloads are short.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// For HTTP/2: no request was served.
fn go_away() -> Vec<u8> {
    let mut payload = vec![0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY];
    payload.extend_from_slice(ADVICE.as_bytes());
    frame(GO_AWAY, &payload)
}
