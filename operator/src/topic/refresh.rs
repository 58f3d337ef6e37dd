//! When records and sizes are updated in the statuses of Topics. The schedule advances the turns; a
//! pass asks whose turn it is.

/// A share of the Topics. Records and sizes of one share are updated at each drift interval, so
/// that topics into which records flow are not all written at once, and each rarely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefreshTurn(u8);

impl RefreshTurn {
    /// Number of shares.
    const COUNT: u8 = 10;

    /// Returns the turn of the next drift interval.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1) % Self::COUNT)
    }

    /// Returns whether a Topic belongs to the share.
    pub fn includes(self, uid: &str) -> bool {
        let sum: u32 = uid.bytes().map(u32::from).sum();
        sum % u32::from(Self::COUNT) == u32::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_has_one_turn_of_ten() {
        for i in 0..100 {
            let uid = format!("uid-{i}");
            let mut turn = RefreshTurn::default();
            let mut turns = 0;
            for _ in 0..10 {
                turns += i32::from(turn.includes(&uid));
                turn = turn.next();
            }
            assert_eq!((turns, turn), (1, RefreshTurn::default()));
        }
    }
}
