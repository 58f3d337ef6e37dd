//! Every record is returned once and in order, for random sequences of events.

use proptest::prelude::*;

use super::*;

/// End of the log.
const END: i64 = 40;

#[derive(Debug, Clone)]
enum AssignmentEvent {
    Ask,
    /// The newest fetch in flight returns this many batches.
    Answer(usize),
    Poll(usize),
    Pause(bool),
    Evict,
    Seek(i64),
    /// Records before this offset are deleted.
    Truncate(i64),
}

fn event() -> impl Strategy<Value = AssignmentEvent> {
    prop_oneof![
        6 => Just(AssignmentEvent::Ask),
        6 => (1_usize..5).prop_map(AssignmentEvent::Answer),
        6 => (1_usize..9).prop_map(AssignmentEvent::Poll),
        1 => any::<bool>().prop_map(AssignmentEvent::Pause),
        1 => Just(AssignmentEvent::Evict),
        1 => (0..END).prop_map(AssignmentEvent::Seek),
        1 => (0..END).prop_map(AssignmentEvent::Truncate),
    ]
}

/// A consumer of one partition, and the offset it must return next.
struct AssignmentModel {
    assignment: AssignmentState,
    key: TopicPartition,
    log: Vec<(BatchHeader, Bytes)>,
    log_start: i64,
    asked: Vec<PartitionRequest>,
    next: i64,
}

impl AssignmentModel {
    fn new() -> Self {
        let (assignment, mut keys) = held(1);
        let (mut log, mut base) = (Vec::new(), 0);
        while base < END {
            let records = (1 + base % 4).min(END - base);
            log.push(batch(base, records));
            base += records;
        }
        Self {
            assignment,
            key: keys.remove(0),
            log,
            log_start: 0,
            asked: Vec::new(),
            next: 0,
        }
    }

    fn answer(&mut self, batches: usize) {
        let Some(wanted) = self.asked.pop() else { return };
        let FetchPosition::At(from) = wanted.position else {
            panic!("a fetch without an offset")
        };
        if from < self.log_start {
            return self.assignment.advance_to_log_start(&wanted, self.log_start);
        }
        let found = self.log.iter().filter(|(header, _)| header.next_offset() > from);
        let found = found.take(batches).cloned().collect();
        self.assignment.add_fetched(&wanted, found, END, 0);
    }

    fn poll(&mut self, most: usize) {
        for offset in poll(&mut self.assignment, most) {
            let deleted_before = self.next < offset && offset <= self.log_start;
            assert!(
                offset == self.next || deleted_before,
                "{offset} where {} is next",
                self.next
            );
            self.next = offset + 1;
        }
    }

    fn apply(&mut self, event: AssignmentEvent) {
        let assignment = &mut self.assignment;
        match event {
            AssignmentEvent::Ask => self
                .asked
                .extend(assignment.take_fetches(Instant::now(), usize::MAX)),
            AssignmentEvent::Answer(batches) => self.answer(batches),
            AssignmentEvent::Poll(most) => self.poll(most),
            AssignmentEvent::Pause(paused) => assignment.pause(&self.key, paused).unwrap(),
            AssignmentEvent::Evict => assignment.evict_paused(),
            AssignmentEvent::Seek(to) => {
                assignment.seek(&self.key, FetchPosition::At(to)).unwrap();
                self.next = to;
            }
            AssignmentEvent::Truncate(to) => self.log_start = self.log_start.max(to),
        }
        let waiting: usize = self.assignment.ready.iter().map(FetchedBatch::size).sum();
        assert_eq!(self.assignment.buffered(), waiting);
        assert_eq!(self.assignment.assigned[&self.key].buffered, waiting);
    }
}

proptest! {
    #[test]
    fn every_record_that_is_kept_is_returned_once_and_in_order(events in prop::collection::vec(event(), 0..80)) {
        let mut model = AssignmentModel::new();
        for event in events {
            model.apply(event);
        }
        for event in [AssignmentEvent::Pause(false), AssignmentEvent::Poll(99)] {
            model.apply(event);
        }
        for _ in 0..4 {
            for event in [AssignmentEvent::Ask, AssignmentEvent::Answer(99), AssignmentEvent::Answer(99), AssignmentEvent::Poll(99)] {
                model.apply(event);
            }
        }
        prop_assert_eq!(model.next, END);
        prop_assert_eq!(model.assignment.position(&model.key).unwrap(), Some(END));
    }
}
