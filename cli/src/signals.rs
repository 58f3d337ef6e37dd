//! The signals that end a command: the first one ends it in order, the second one ends the process.

use tokio_util::sync::CancellationToken;

/// Returns a token that the first SIGINT or SIGTERM cancels, so that a command can end in order. A
/// second signal ends the process at once.
pub(crate) fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        if next_signal().await.is_ok() {
            token.cancel();
            if next_signal().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
    stop
}

#[cfg(unix)]
async fn next_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn next_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
