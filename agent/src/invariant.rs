//! Names the invariants: what must hold whatever crashes. Code that detects a violation reports it
//! through [`record_violation`](crate::metrics::AgentMetrics::record_violation), which counts and
//! logs it; tests and the simulator check the same names.

use std::fmt;

/// Declares the invariants once: variant, name, meaning.
macro_rules! invariants {
    ($($variant:ident, $name:literal, $meaning:literal;)*) => {
        /// A guarantee about data, by the name that alerts and tests use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Invariant { $(#[doc = $meaning] $variant,)* }

        impl Invariant {
            /// All invariants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name in metrics and logs: `INV-P1`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// Returns what must hold.
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }
        }
    };
}

invariants! {
    P1, "INV-P1", "an acknowledged record is stored and its metadata is committed before the ack leaves";
    P2, "INV-P2", "offsets of a partition are gap-free, strictly increasing, and never given out twice";
    P3, "INV-P3", "an idempotent producer's retry is stored once, and its ack carries the first offset";
    P4, "INV-P4", "records of one producer to one partition keep their order";
    F1, "INV-F1", "a reader sees committed records only, and the same bytes for an offset for ever";
    L1, "INV-L1", "at most one agent commits to a partition per epoch";
    G1, "INV-G1", "no object that a metadata row references, or an open read may use, is deleted";
    G2, "INV-G2", "every object that nothing references is deleted in the end";
    K1, "INV-K1", "no object key is ever used twice, whatever is deleted, created again, restored or delayed";
    B1, "INV-B1", "a bucket and prefix belong to one cluster and one timeline of its metadata";
    L2, "INV-L2", "a lease is kept only while its holder can commit, and every wait has a bound";
    C1, "INV-C1", "a committed group offset never goes back by itself, and old members cannot commit";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: HashSet<&str> = Invariant::ALL.iter().map(|invariant| invariant.name()).collect();
        assert_eq!(names.len(), Invariant::ALL.len());
    }
}
