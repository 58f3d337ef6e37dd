//! A consumer as a stream.

use std::time::Duration;

use futures::{Stream, stream};

use super::{Consumer, Records};
use crate::error::Result;

impl Consumer {
    /// Polls again and again: a stream of non-empty [`Records`]. After an error it goes on with the next poll, as a
    /// caller of `poll` would; it never ends by itself before the consumer is closed.
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
    pub fn stream(&mut self) -> impl Stream<Item = Result<Records>> + '_ {
        stream::unfold(self, |consumer| async move {
            loop {
                if consumer.closed {
                    return None;
                }
                match consumer.poll(Duration::from_secs(1)).await {
                    Ok(records) if records.is_empty() => {}
                    settled => return Some((settled, consumer)),
                }
            }
        })
    }
}
