//! A type reads without its path: how many names are one word, and how many stand for two types of
//! one crate.

use std::collections::BTreeMap;

use super::StructureBreach;
use super::crates::WorkspaceCrates;
use super::limits::NameLimits;

/// What a crate's type names are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeasuredNames {
    pub(crate) krate: String,
    pub(crate) types: usize,
    /// Type names of one word.
    pub(crate) one_word: usize,
    /// Names that more than one type has, each with where the types are.
    pub(crate) repeated: BTreeMap<String, Vec<String>>,
}

impl MeasuredNames {
    /// Rounded up, so that a limit that was just reached holds.
    fn percent(&self) -> usize {
        (self.one_word * 100).div_ceil(self.types.max(1))
    }
}

/// Looks at the type names of each crate outside its tests.
pub(crate) fn measure(workspace: &WorkspaceCrates) -> Vec<MeasuredNames> {
    let mut all = Vec::new();
    for krate in workspace.crates() {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut types = 0;
        for file in workspace
            .files
            .iter()
            .filter(|file| file.krate == krate && !file.test)
        {
            for declared in &file.source.types {
                types += 1;
                let place = format!("{}:{}", file.path, declared.line);
                places.entry(declared.name.clone()).or_default().push(place);
            }
        }
        if types == 0 {
            continue;
        }
        let one_word = places
            .iter()
            .filter(|(name, _)| is_one_word(name))
            .map(|(_, places)| places.len())
            .sum();
        places.retain(|_, places| places.len() > 1);
        all.push(MeasuredNames {
            krate: krate.to_owned(),
            types,
            one_word,
            repeated: places,
        });
    }
    all
}

/// Crates that are above their limits, or have none.
pub(crate) fn check(measured: &[MeasuredNames], limits: &[NameLimits]) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    for found in measured {
        let manifest = format!("{}/Cargo.toml", found.krate);
        let mut breach = |what: String| breaches.push(StructureBreach::new(&manifest, 1, what));
        let Some(limit) = limits.iter().find(|limit| limit.krate == found.krate) else {
            breach(
                "the crate has no limits for its names: add them in xtask/src/structure/limits.rs".to_owned(),
            );
            continue;
        };
        if found.percent() > limit.one_word_percent {
            breach(format!(
                "{} % of the type names are one word, the limit is {} %: name the new type in two",
                found.percent(),
                limit.one_word_percent
            ));
        }
        if found.repeated.len() > limit.repeated {
            let names = found.repeated.iter();
            let names: Vec<String> = names
                .map(|(name, places)| format!("{name} ({})", places.join(", ")))
                .collect();
            breach(format!(
                "{} type names stand for several types, the limit is {}: {}",
                found.repeated.len(),
                limit.repeated,
                names.join("; ")
            ));
        }
    }
    breaches
}

/// A line for each crate.
pub(crate) fn report(measured: &[MeasuredNames]) -> Vec<String> {
    let line = |found: &MeasuredNames| {
        format!(
            "{:<10} {:>3} types, {:>2} % of one word, {} names that several types have",
            found.krate,
            found.types,
            found.percent(),
            found.repeated.len()
        )
    };
    measured.iter().map(line).collect()
}

/// One capital at its beginning, and no other that follows a small letter.
fn is_one_word(name: &str) -> bool {
    let letters: Vec<char> = name.chars().collect();
    !letters
        .windows(2)
        .any(|pair| pair[1].is_uppercase() && !pair[0].is_uppercase())
        && !name.contains('_')
}
