//! Links between documents lead somewhere, and so do their anchors.

use std::collections::{BTreeMap, BTreeSet};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::StructureBreach;
use crate::repository::FileTree;

/// Relative links of every Markdown file that lead to no file, folder or heading.
pub(crate) fn check(tree: &FileTree) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    let documents: BTreeMap<&str, MarkdownDocument> = tree
        .files()
        .filter(|(path, _)| path.ends_with(".md"))
        .map(|(path, text)| (path, read(text)))
        .collect();
    for (path, document) in &documents {
        for (line, link) in &document.links {
            if let Some(what) = wrong(tree, &documents, path, link) {
                breaches.push(StructureBreach::new(*path, *line, what));
            }
        }
    }
    breaches
}

fn wrong(
    tree: &FileTree,
    documents: &BTreeMap<&str, MarkdownDocument>,
    path: &str,
    link: &str,
) -> Option<String> {
    let elsewhere = link.contains("://") || link.starts_with("mailto:") || link.starts_with("//");
    if elsewhere {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let file = file.split('?').next().unwrap_or_default();
    let target = if file.is_empty() {
        Some(path.to_owned())
    } else {
        join(path, file)
    };
    let Some(target) = target.filter(|target| tree.exists(target)) else {
        return Some(format!("leads to no file: {link}"));
    };
    match documents.get(target.as_str()) {
        Some(document) if !anchor.is_empty() && !document.anchors.contains(anchor) => {
            Some(format!("leads to no heading: {link}"))
        }
        _ => None,
    }
}

/// The path that a link in the file `from` leads to; none if that is outside the repository.
fn join(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = if link.starts_with('/') {
        Vec::new()
    } else {
        from.rsplit_once('/')
            .map_or(Vec::new(), |(folder, _)| folder.split('/').collect())
    };
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/").replace("%20", " "))
}

#[derive(Debug, Default)]
struct MarkdownDocument {
    /// Each link with its line.
    links: Vec<(usize, String)>,
    anchors: BTreeSet<String>,
}

fn read(text: &str) -> MarkdownDocument {
    let mut document = MarkdownDocument::default();
    let mut heading: Option<String> = None;
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_STRIKETHROUGH;
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        let line =
            || text[..range.start].lines().count().max(1) + usize::from(text[..range.start].ends_with('\n'));
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                document.links.push((line(), dest_url.into_string()));
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let name = anchor(&heading.take().unwrap_or_default());
                let before = taken.entry(name.clone()).or_default();
                let unique = if *before == 0 {
                    name
                } else {
                    format!("{name}-{before}")
                };
                *before += 1;
                document.anchors.insert(unique);
            }
            Event::Text(words) | Event::Code(words) => {
                heading.iter_mut().for_each(|heading| heading.push_str(&words))
            }
            Event::Html(html) | Event::InlineHtml(html) => document.anchors.extend(html_anchors(&html)),
            _ => {}
        }
    }
    document
}

/// GitHub's name of a heading: small letters; letters, numbers, `-` and `_` stay, a space becomes
/// `-`, the rest goes.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter if letter.is_alphanumeric() => Some(letter),
            _ => None,
        })
        .collect()
}

/// The values of `id` and `name`.
fn html_anchors(html: &str) -> Vec<String> {
    let after = |key: &str| {
        let parts = html.split(key).skip(1);
        parts
            .filter_map(|rest| rest.split('"').next().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    [after(" id=\""), after(" name=\"")].concat()
}
