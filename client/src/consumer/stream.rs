//! A consumer as a [`Stream`].

use std::time::Duration;

use futures::{Stream, stream};
use tokio::time::sleep;

use super::{Consumer, ConsumerRecords};
use crate::error::Result;

impl Consumer {
    /// Returns a stream of non-empty [`ConsumerRecords`] that polls repeatedly. After an error it
    /// polls again, with a delay that grows with consecutive errors. It ends only when the
    /// consumer is closed.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(mut consumer: streamhouse_client::Consumer) -> streamhouse_client::Result<()> {
    /// use futures::{StreamExt, pin_mut};
    /// let stream = consumer.stream();
    /// pin_mut!(stream);
    /// while let Some(records) = stream.next().await {
    ///     for record in &records? {
    ///         println!("{}", record.offset);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&mut self) -> impl Stream<Item = Result<ConsumerRecords>> + '_ {
        let backoff = self.shared.client.backoff();
        stream::unfold(
            (self, backoff, false),
            |(consumer, mut backoff, failed)| async move {
                if failed && !consumer.closed {
                    // Back off, so that a lasting error does not produce a flood of errors.
                    sleep(backoff.next_delay(Duration::ZERO)).await;
                }
                loop {
                    if consumer.closed {
                        return None;
                    }
                    match consumer.poll(Duration::from_secs(1)).await {
                        Ok(records) if records.is_empty() => backoff.reset(),
                        Ok(records) => {
                            backoff.reset();
                            return Some((Ok(records), (consumer, backoff, false)));
                        }
                        Err(error) => return Some((Err(error), (consumer, backoff, true))),
                    }
                }
            },
        )
    }
}
