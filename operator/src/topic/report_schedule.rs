//! When the Topics that cannot be decoded are reported: shortly after a change of one of them, and
//! again until there are none. Owned by the controller. Free of side effects.

use std::time::Duration;

use tokio::time::Instant;

/// Delay of a report after a change, so that changes in quick succession make one.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// The time of the next report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ReportSchedule(Option<Instant>);

impl ReportSchedule {
    /// Returns when the next report is due; `None` if nothing is to be reported.
    pub(super) fn next_due(self) -> Option<Instant> {
        self.0
    }

    /// Requests a report after a change at `now`. Further changes do not postpone it, and a retry
    /// that is scheduled later does not either.
    pub(super) fn request(&mut self, now: Instant) {
        self.schedule(now + DEBOUNCE);
    }

    /// Schedules a report, unless an earlier one is.
    pub(super) fn schedule(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |due| due.min(at)));
    }

    /// Forgets the scheduled report, which begins now.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_without_a_pause_do_not_postpone_a_report() {
        let (mut reports, begin) = (ReportSchedule::default(), Instant::now());
        assert_eq!(reports.next_due(), None);
        for step in 0..100 {
            reports.request(begin + DEBOUNCE / 10 * step);
        }
        assert_eq!(reports.next_due(), Some(begin + DEBOUNCE));
    }

    #[test]
    fn a_change_is_reported_before_the_next_attempt_for_those_that_are_known() {
        let (mut reports, begin) = (ReportSchedule::default(), Instant::now());
        reports.schedule(begin + DEBOUNCE * 60);
        reports.request(begin);
        assert_eq!(reports.next_due(), Some(begin + DEBOUNCE));
        reports.clear();
        reports.schedule(begin + DEBOUNCE * 60);
        assert_eq!(reports.next_due(), Some(begin + DEBOUNCE * 60));
    }
}
