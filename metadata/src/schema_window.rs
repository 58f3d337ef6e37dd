//! The schema versions that a build runs on: of this build and of each release. The latter is for
//! agents that do not report their own: those that registered on a schema without these columns,
//! and those that a spec names.

use std::{cmp::Ordering, fmt};

use serde::Serialize;

/// The schema versions that a build runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SchemaWindow {
    /// The oldest version.
    pub min: i64,
    /// The newest version, to which the build migrates.
    pub max: i64,
}

/// The schema versions that this build runs on.
pub const SCHEMA_WINDOW: SchemaWindow = SchemaWindow { min: 5, max: 7 };

impl SchemaWindow {
    /// Returns whether the build runs on this version.
    pub fn contains(&self, version: i64) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl fmt::Display for SchemaWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "version {}", self.max)
        } else {
            write!(f, "versions {} to {}", self.min, self.max)
        }
    }
}

/// The numbers of a release.
type ReleaseNumber = (u64, u64, u64);

/// The releases with which the window changed, in ascending order. Each later release runs on the
/// window of the last one listed before it.
const RELEASES: &[(ReleaseNumber, SchemaWindow)] = &[((0, 1, 0), SchemaWindow { min: 5, max: 7 })];

/// Returns the schema versions that a release runs on.
///
/// `None` for a version that is older than all known releases, or is none: a pre-release of another
/// build, or a tag of a custom image. A release that is newer than this build is taken for the
/// newest known one; see [`compare_releases`].
pub fn release_window(version: &str) -> Option<SchemaWindow> {
    if version == env!("CARGO_PKG_VERSION") {
        return Some(SCHEMA_WINDOW);
    }
    find_window(RELEASES, parse_release(version)?)
}

/// Compares two releases; `None` if one of them is none.
pub fn compare_releases(one: &str, other: &str) -> Option<Ordering> {
    if one == other {
        return Some(Ordering::Equal);
    }
    Some(parse_release(one)?.cmp(&parse_release(other)?))
}

fn find_window(releases: &[(ReleaseNumber, SchemaWindow)], number: ReleaseNumber) -> Option<SchemaWindow> {
    let known = releases.iter().rev().find(|(release, _)| *release <= number);
    known.map(|(_, window)| *window)
}

/// Parses `1.2.3` or `v1.2.3`.
fn parse_release(version: &str) -> Option<ReleaseNumber> {
    let text = version.strip_prefix('v').unwrap_or(version);
    let mut numbers = text.split('.').map(|number| {
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse().ok().filter(|_| digits)
    });
    let release = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: SchemaWindow = SchemaWindow { min: 5, max: 6 };
    const SECOND: SchemaWindow = SchemaWindow { min: 6, max: 7 };

    #[test]
    fn a_window_is_read_aloud() {
        assert_eq!(FIRST.to_string(), "versions 5 to 6");
        assert_eq!(SchemaWindow { min: 5, max: 5 }.to_string(), "version 5");
    }

    #[test]
    fn this_build_is_in_the_table() {
        let ours = parse_release(env!("CARGO_PKG_VERSION")).unwrap();
        let (newest, window) = *RELEASES.last().unwrap();
        assert_eq!(
            window, SCHEMA_WINDOW,
            "add the release with which the window changes"
        );
        assert!(newest <= ours, "{newest:?} is not released yet");
        assert!(RELEASES.is_sorted_by_key(|(number, _)| *number));
    }

    #[test]
    fn a_release_that_is_not_listed_has_the_window_of_the_one_before() {
        let releases = [((0, 2, 0), FIRST), ((0, 4, 0), SECOND)];
        for (version, window) in [
            ("0.1.9", None),
            ("0.2.0", Some(FIRST)),
            ("0.3.7", Some(FIRST)),
            ("v0.4.0", Some(SECOND)),
            ("0.10.0", Some(SECOND)),
        ] {
            let number = parse_release(version).unwrap();
            assert_eq!(find_window(&releases, number), window, "{version}");
        }
    }

    #[test]
    fn what_is_not_a_release_has_no_window() {
        for version in [
            "",
            "latest",
            "0.1",
            "0.1.0.1",
            "0.1.0-rc.1",
            "0.1.+1",
            "v",
            "3f2a1c0",
        ] {
            assert_eq!(release_window(version), None, "{version:?}");
            assert_eq!(compare_releases(version, "0.1.0"), None, "{version:?}");
        }
        assert_eq!(release_window(env!("CARGO_PKG_VERSION")), Some(SCHEMA_WINDOW));
        assert_eq!(compare_releases("0.10.0", "0.9.1"), Some(Ordering::Greater));
        assert_eq!(compare_releases("nightly", "nightly"), Some(Ordering::Equal));
    }
}
