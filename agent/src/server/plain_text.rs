//! Answers clients that speak plain text to a TLS port; otherwise they would only see a broken
//! connection.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::TcpStream,
    time::{Duration, timeout},
};

/// The first byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 22;
/// The first bytes of HTTP/2 without TLS.
const HTTP2_PREFACE_START: &[u8] = b"PRI";
/// Length of the HTTP/2 preface before the first frame.
const HTTP2_PREFACE_LENGTH: usize = 24;
/// Type of the frame that begins a request.
const HEADERS: u8 = 1;
/// How long to wait for a request. Clients report why a connection ended only for requests that
/// were sent on it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const ADVICE: &str = "this port speaks TLS: use https://";
/// GOAWAY error code for a connection that is not secure enough.
const INADEQUATE_SECURITY: u8 = 12;
/// How many more bytes of the client are read and discarded, so that the answer is not lost with
/// the connection.
const MAX_DISCARDED_BYTES: u64 = 64 << 10;

/// Peeks at the first bytes of a connection. If they are not TLS, answers in the client's protocol
/// and returns `true`: the connection must then be dropped.
pub(super) async fn refuse_plain_text(stream: &mut TcpStream) -> io::Result<bool> {
    let mut begin = [0; HTTP2_PREFACE_START.len()];
    let seen = stream.peek(&mut begin).await?;
    let begin = &begin[..seen];
    if begin.first() == Some(&TLS_HANDSHAKE) {
        return Ok(false);
    }
    if begin == HTTP2_PREFACE_START {
        // The server's SETTINGS frame must come first.
        stream.write_all(&http2_frame(SETTINGS, &[])).await?;
        if let Ok(asked) = timeout(REQUEST_TIMEOUT, read_until_request(stream)).await {
            asked?;
        }
        stream.write_all(&http2_go_away()).await?;
    } else {
        stream.write_all(&http1_bad_request()).await?;
    }
    stream.shutdown().await?;
    copy(&mut stream.take(MAX_DISCARDED_BYTES), &mut sink()).await?;
    Ok(true)
}

/// Reads until a request has begun, or [`MAX_DISCARDED_BYTES`] bytes have arrived.
async fn read_until_request(stream: &mut TcpStream) -> io::Result<()> {
    let mut left = MAX_DISCARDED_BYTES;
    stream.read_exact(&mut [0; HTTP2_PREFACE_LENGTH]).await?;
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

/// The answer for HTTP/1.
fn http1_bad_request() -> Vec<u8> {
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{ADVICE}\n",
        ADVICE.len() + 1
    )
    .into_bytes()
}

/// HTTP/2 frame types.
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;

/// Encodes an HTTP/2 frame: length in three bytes, type, no flags, stream 0. Payloads are short.
fn http2_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The answer for HTTP/2: no request was served.
fn http2_go_away() -> Vec<u8> {
    let mut payload = vec![0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY];
    payload.extend_from_slice(ADVICE.as_bytes());
    http2_frame(GO_AWAY, &payload)
}
