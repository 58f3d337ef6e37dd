//! Every record is returned once and in order, for random sequences of events.

use proptest::prelude::*;

use super::*;

/// End of the log.
const END: i64 = 40;

#[derive(Debug, Clone)]
enum Event {
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

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Ask),
        6 => (1_usize..5).prop_map(Event::Answer),
        6 => (1_usize..9).prop_map(Event::Poll),
        1 => any::<bool>().prop_map(Event::Pause),
        1 => Just(Event::Evict),
        1 => (0..END).prop_map(Event::Seek),
        1 => (0..END).prop_map(Event::Truncate),
    ]
}

/// A consumer of one partition, and the offset it must return next.
struct Model {
    assignment: Assignment,
    key: TopicPartition,
    log: Vec<(BatchHeader, Bytes)>,
    log_start: i64,
    asked: Vec<Wanted>,
    next: i64,
}

impl Model {
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
        let Position::At(from) = wanted.position else {
            panic!("a fetch without an offset")
        };
        if from < self.log_start {
            return self.assignment.begins_at(&wanted, self.log_start);
        }
        let found = self.log.iter().filter(|(header, _)| header.next_offset() > from);
        let found = found.take(batches).cloned().collect();
        self.assignment.fetched(&wanted, found, END, 0);
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

    fn take(&mut self, event: Event) {
        let assignment = &mut self.assignment;
        match event {
            Event::Ask => self.asked.extend(assignment.fetches(Instant::now(), usize::MAX)),
            Event::Answer(batches) => self.answer(batches),
            Event::Poll(most) => self.poll(most),
            Event::Pause(paused) => assignment.pause(&self.key, paused).unwrap(),
            Event::Evict => assignment.evict_paused(),
            Event::Seek(to) => {
                assignment.seek(&self.key, Position::At(to)).unwrap();
                self.next = to;
            }
            Event::Truncate(to) => self.log_start = self.log_start.max(to),
        }
        let waiting: usize = self.assignment.ready.iter().map(Fetched::size).sum();
        assert_eq!(self.assignment.buffered(), waiting);
        assert_eq!(self.assignment.held[&self.key].buffered, waiting);
    }
}

proptest! {
    #[test]
    fn every_record_that_is_kept_is_returned_once_and_in_order(events in prop::collection::vec(event(), 0..80)) {
        let mut model = Model::new();
        for event in events {
            model.take(event);
        }
        for event in [Event::Pause(false), Event::Poll(99)] {
            model.take(event);
        }
        for _ in 0..4 {
            for event in [Event::Ask, Event::Answer(99), Event::Answer(99), Event::Poll(99)] {
                model.take(event);
            }
        }
        prop_assert_eq!(model.next, END);
        prop_assert_eq!(model.assignment.position(&model.key).unwrap(), Some(END));
    }
}
