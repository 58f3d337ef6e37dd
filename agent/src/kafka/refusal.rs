//! A frame that is refused, which ends its connection. The connection counts it.

use std::{fmt, io};

use thiserror::Error;

use crate::metrics::FrameRefusal;

/// Why a frame was refused, within the error that ends its connection.
#[derive(Debug, Error)]
#[error("{message}")]
struct RefusedFrame {
    reason: FrameRefusal,
    message: String,
}

/// Returns the error that ends a connection for this reason.
pub(super) fn refused(reason: FrameRefusal, problem: impl fmt::Display) -> io::Error {
    let message = problem.to_string();
    io::Error::new(io::ErrorKind::InvalidData, RefusedFrame { reason, message })
}

/// Returns the reason if a connection ended because a frame was refused.
pub(super) fn refusal_of(error: &io::Error) -> Option<FrameRefusal> {
    let refused = error.get_ref()?.downcast_ref::<RefusedFrame>()?;
    Some(refused.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refused_frames_have_a_reason() {
        let error = refused(FrameRefusal::TooLarge, "a request of 5 bytes");
        assert_eq!(refusal_of(&error), Some(FrameRefusal::TooLarge));
        assert_eq!(error.to_string(), "a request of 5 bytes");
        // TLS reports damaged records with the same kind of error.
        for other in [io::Error::from(io::ErrorKind::InvalidData), io::Error::other("x")] {
            assert_eq!(refusal_of(&other), None);
        }
    }
}
