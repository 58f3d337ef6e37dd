//! The workspace's crates as trees of modules: which file each module lies in, and where a path
//! leads.

use std::collections::{BTreeMap, BTreeSet};

use super::StructureBreach;
use super::source::{self, ParsedSource, PathMention};
use crate::repository::FileTree;

/// A Rust file with its place in a crate.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) source: ParsedSource,
    /// The crate's folder, such as `agent`; "" where there is no `src` on the path.
    pub(crate) krate: String,
    /// The path of its module inside the crate, from below the root; empty for `lib.rs`, `["main"]`
    /// for `main.rs`.
    pub(crate) module: Vec<String>,
    /// Whether all of it is compiled for tests only.
    pub(crate) test: bool,
}

/// All Rust files of the repository.
#[derive(Debug, Default)]
pub(crate) struct WorkspaceCrates {
    pub(crate) files: Vec<SourceFile>,
}

impl WorkspaceCrates {
    /// Parses every Rust file; one that cannot be parsed is a breach.
    pub(crate) fn parse(tree: &FileTree) -> (WorkspaceCrates, Vec<StructureBreach>) {
        let (mut files, mut breaches) = (Vec::new(), Vec::new());
        for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".rs")) {
            match source::parse(text) {
                Ok(source) => {
                    let (krate, module) = place(path);
                    files.push(SourceFile {
                        path: path.to_owned(),
                        text: text.to_owned(),
                        source,
                        krate,
                        module,
                        test: is_test_path(path),
                    });
                }
                Err(error) => {
                    let line = error.span().start().line;
                    breaches.push(StructureBreach::new(path, line, format!("is no Rust: {error}")));
                }
            }
        }
        let mut workspace = WorkspaceCrates { files };
        workspace.root_programs();
        workspace.mark_tests();
        (workspace, breaches)
    }

    /// In a crate without a library, the program's file is the root.
    fn root_programs(&mut self) {
        let libraries: BTreeSet<String> = self
            .files
            .iter()
            .filter(|file| file.module.is_empty())
            .map(|file| file.krate.clone())
            .collect();
        let programs = self.files.iter_mut().filter(|file| file.module == ["main"]);
        for file in programs.filter(|file| !libraries.contains(&file.krate)) {
            file.module.clear();
        }
    }

    /// A file whose `mod` stands under `#[cfg(test)]`, and what lies below it, is for tests only.
    fn mark_tests(&mut self) {
        let mut only_tests: BTreeSet<(String, Vec<String>)> = BTreeSet::new();
        for file in &self.files {
            for (inside, name, test) in &file.source.modules {
                if *test || file.test {
                    let mut module = file.module.clone();
                    module.extend(inside.iter().cloned());
                    module.push(name.clone());
                    only_tests.insert((file.krate.clone(), module));
                }
            }
        }
        for file in &mut self.files {
            let below = (1..=file.module.len())
                .any(|length| only_tests.contains(&(file.krate.clone(), file.module[..length].to_vec())));
            file.test = file.test || below;
        }
    }

    /// The names of the crates that have files.
    pub(crate) fn crates(&self) -> BTreeSet<&str> {
        let named = self.files.iter().map(|file| file.krate.as_str());
        named.filter(|krate| !krate.is_empty()).collect()
    }

    /// The files of a crate that are not for tests only, as modules.
    pub(crate) fn modules(&self, krate: &str) -> CrateModules<'_> {
        let files: Vec<&SourceFile> = self
            .files
            .iter()
            .filter(|file| file.krate == krate && !file.test)
            .collect();
        let mut modules = CrateModules {
            library: format!("streamhouse_{}", krate.replace(['/', '-'], "_")),
            files,
            file_of: BTreeMap::new(),
            uses: BTreeMap::new(),
            items: BTreeSet::new(),
        };
        for (index, file) in modules.files.iter().enumerate() {
            modules.file_of.insert(file.module.clone(), index);
            let below = |inside: &[String]| [file.module.as_slice(), inside].concat();
            for (inside, name, test) in &file.source.modules {
                if !test {
                    let module = [below(inside), vec![name.clone()]].concat();
                    modules.file_of.entry(module).or_insert(index);
                }
            }
            for (inside, name) in &file.source.items {
                modules.items.insert((below(inside), name.clone()));
            }
            for mention in &file.source.mentions {
                if let Some(name) = &mention.brings {
                    let key = (below(&mention.inside), name.clone());
                    modules
                        .uses
                        .entry(key)
                        .or_default()
                        .push(mention.segments.clone());
                }
            }
        }
        // A file of its own knows better than the `mod` that declares it.
        for (index, file) in modules.files.iter().enumerate() {
            modules.file_of.insert(file.module.clone(), index);
        }
        modules
    }
}

/// The modules of one crate.
#[derive(Debug)]
pub(crate) struct CrateModules<'a> {
    /// The library's name, by which its own programs import it.
    library: String,
    pub(crate) files: Vec<&'a SourceFile>,
    file_of: BTreeMap<Vec<String>, usize>,
    /// By module and name: what `use` brings in.
    uses: BTreeMap<(Vec<String>, String), Vec<Vec<String>>>,
    items: BTreeSet<(Vec<String>, String)>,
}

impl CrateModules<'_> {
    /// The module that a mention in `file` leads to, through re-exports, to where its name is
    /// declared. None: another crate's.
    pub(crate) fn target(&self, file: &SourceFile, mention: &PathMention) -> Option<Vec<String>> {
        let module = [file.module.as_slice(), mention.inside.as_slice()].concat();
        let own = mention.brings.as_ref().map(|name| (module.clone(), name.clone()));
        self.resolve(&module, &mention.segments, &mut own.into_iter().collect())
    }

    /// The module that declares `name`, as the module `from` would find it at the end of `path`;
    /// without a name, the path's own module. None: another crate's.
    pub(crate) fn declares(
        &self,
        from: &[String],
        path: &[String],
        name: Option<&str>,
    ) -> Option<Vec<String>> {
        let whole: Vec<String> = path.iter().cloned().chain(name.map(str::to_owned)).collect();
        if let [name] = whole.as_slice()
            && self.items.contains(&(from.to_vec(), name.clone()))
        {
            return Some(from.to_vec());
        }
        self.resolve(from, &whole, &mut BTreeSet::new())
    }

    /// The file that a module lies in.
    pub(crate) fn file(&self, module: &[String]) -> Option<usize> {
        (0..=module.len())
            .rev()
            .find_map(|length| self.file_of.get(&module[..length]).copied())
    }

    /// `seen` holds the names that are being looked up, so that circles of re-exports end.
    fn resolve(
        &self,
        from: &[String],
        path: &[String],
        seen: &mut BTreeSet<(Vec<String>, String)>,
    ) -> Option<Vec<String>> {
        let first = path.first()?;
        match first.as_str() {
            "crate" => return self.walk(Vec::new(), &path[1..], seen),
            "self" => return self.walk(from.to_vec(), &path[1..], seen),
            "super" => {
                let parent = from[..from.len().saturating_sub(1)].to_vec();
                let is_more = path.get(1).is_some_and(|next| next == "super");
                if is_more {
                    return self.resolve(&parent, &path[1..], seen);
                }
                return self.walk(parent, &path[1..], seen);
            }
            name if name == self.library => return self.walk(Vec::new(), &path[1..], seen),
            _ => {}
        }
        let child = [from, std::slice::from_ref(first)].concat();
        if self.file_of.contains_key(&child) {
            return self.walk(child, &path[1..], seen);
        }
        let module = self.brought(from, first, seen)?;
        // The name leads to a module, or to an item in it, whose own names are of no interest.
        let is_module = module.last() == Some(first) || self.alias_is_module(from, first);
        if is_module {
            self.walk(module, &path[1..], seen)
        } else {
            Some(module)
        }
    }

    fn alias_is_module(&self, from: &[String], name: &str) -> bool {
        let key = (from.to_vec(), name.to_owned());
        self.uses.get(&key).is_some_and(|paths| {
            paths.iter().any(|path| {
                let target = self.resolve(from, path, &mut BTreeSet::from([key.clone()]));
                target
                    .is_some_and(|target| target.last() == path.last() && self.file_of.contains_key(&target))
            })
        })
    }

    /// From a module down a path: through its child modules, then to where the name that follows is
    /// declared.
    fn walk(
        &self,
        mut module: Vec<String>,
        path: &[String],
        seen: &mut BTreeSet<(Vec<String>, String)>,
    ) -> Option<Vec<String>> {
        for (index, segment) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(segment)].concat();
            if self.file_of.contains_key(&child) {
                module = child;
                continue;
            }
            if self.items.contains(&(module.clone(), segment.clone())) {
                return Some(module);
            }
            return match self.brought(&module, segment, seen) {
                Some(target) if target.last() == Some(segment) && self.file_of.contains_key(&target) => {
                    self.walk(target, &path[index + 1..], seen)
                }
                Some(target) => Some(target),
                None => Some(module),
            };
        }
        Some(module)
    }

    /// Where the name that a `use` of the module brings in is declared.
    fn brought(
        &self,
        module: &[String],
        name: &str,
        seen: &mut BTreeSet<(Vec<String>, String)>,
    ) -> Option<Vec<String>> {
        let key = (module.to_vec(), name.to_owned());
        if !seen.insert(key.clone()) {
            return None;
        }
        if let Some(paths) = self.uses.get(&key) {
            return paths.iter().find_map(|path| self.resolve(module, path, seen));
        }
        let globs = self.uses.get(&(module.to_vec(), "*".to_owned()))?;
        globs.iter().find_map(|path| {
            let target = self.resolve(module, path, seen)?;
            let declared = self.items.contains(&(target.clone(), name.to_owned()));
            if declared {
                Some(target)
            } else {
                self.brought(&target, name, seen)
            }
        })
    }
}

/// The crate's folder and the module of a file below `src`.
fn place(path: &str) -> (String, Vec<String>) {
    let Some((krate, inside)) = path.split_once("/src/") else {
        return (String::new(), Vec::new());
    };
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
    match module.last().map(String::as_str) {
        Some("mod") => {
            module.pop();
        }
        Some("lib") if module.len() == 1 => module.clear(),
        _ => {}
    }
    (krate.to_owned(), module)
}

/// Whether the path says that a file is for tests only.
pub(crate) fn is_test_path(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.starts_with("tests/")
        || path.contains("/benches/")
}
