//! Extracts the shell commands of a Markdown document, with the output that the document shows.
//!
//! Called by `cargo xtask docs-commands` and by the tests that run documented commands. The first
//! word of a block's info string is the language; what follows it says where the block runs:
//!
//! | info string | the block |
//! |---|---|
//! | `sh` | runs on a machine without a cluster |
//! | `sh kubernetes` | runs against a Kubernetes API without a cluster of StreamHouse |
//! | `sh no-test: REASON` | does not run, for this reason |
//!
//! A `text` block that follows directly is the block's output.

use std::ops::Range;

use anyhow::{Context, ensure};

/// Where the commands of a block run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandScope {
    /// On a machine with the built programs, without other servers.
    Machine,
    /// Against a Kubernetes API.
    Kubernetes,
    /// Nowhere, for this reason.
    Untested(String),
}

/// The commands of one block of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentedCommand {
    /// The line of the block's fence, from 1.
    pub line: usize,
    /// The heading above the block, without its `#`.
    pub section: String,
    /// Where the commands run.
    pub scope: CommandScope,
    /// The commands.
    pub code: String,
    /// The output that the document shows.
    pub output: Option<String>,
}

/// Returns the blocks of the languages `sh` and `bash` in the order of the document.
///
/// # Errors
///
/// Fails, with the line, if an info string has an unknown marker or a block has no end.
pub fn extract_commands(markdown: &str) -> anyhow::Result<Vec<DocumentedCommand>> {
    let lines: Vec<&str> = markdown.lines().collect();
    let mut commands: Vec<DocumentedCommand> = Vec::new();
    let mut section = String::new();
    // Whether nothing but blank lines lies between the last block of commands and this line.
    let mut follows_command = false;
    let mut next = 0;
    while let Some(line) = lines.get(next) {
        let Some(fence) = CodeFence::open(line) else {
            if let Some(heading) = line.strip_prefix('#') {
                section = heading.trim_start_matches('#').trim().to_owned();
            }
            // Output directly follows its commands; a blank line may separate them.
            if !line.trim().is_empty() {
                follows_command = false;
            }
            next += 1;
            continue;
        };
        let content = fence
            .content(&lines, next)
            .with_context(|| format!("line {}: the block has no end", next + 1))?;
        let text = || fence.unindent(&lines[content.clone()]);
        if let Some(marker) = fence.shell_marker() {
            let scope = parse_scope(marker).with_context(|| format!("line {}", next + 1))?;
            commands.push(DocumentedCommand {
                line: next + 1,
                section: section.clone(),
                scope,
                code: text(),
                output: None,
            });
            follows_command = true;
        } else {
            if fence.info == "text"
                && follows_command
                && let Some(command) = commands.last_mut()
            {
                command.output = Some(text());
            }
            follows_command = false;
        }
        next = content.end + 1;
    }
    Ok(commands)
}

fn parse_scope(marker: &str) -> anyhow::Result<CommandScope> {
    match marker {
        "" => Ok(CommandScope::Machine),
        "kubernetes" => Ok(CommandScope::Kubernetes),
        _ => {
            let reason = marker
                .strip_prefix("no-test:")
                .with_context(|| format!("unknown marker {marker:?}: write kubernetes or no-test: REASON"))?
                .trim();
            ensure!(!reason.is_empty(), "no-test: needs a reason");
            Ok(CommandScope::Untested(reason.to_owned()))
        }
    }
}

/// The opening line of a fenced block.
#[derive(Debug)]
struct CodeFence<'a> {
    indent: usize,
    ticks: usize,
    info: &'a str,
}

impl<'a> CodeFence<'a> {
    fn open(line: &'a str) -> Option<CodeFence<'a>> {
        let text = line.trim_start();
        let info = text.trim_start_matches('`');
        let ticks = text.len() - info.len();
        (ticks >= 3 && !info.contains('`')).then(|| CodeFence {
            indent: line.len() - text.len(),
            ticks,
            info: info.trim(),
        })
    }

    /// Returns the range of the lines between this fence, which is line `at`, and its end.
    fn content(&self, lines: &[&str], at: usize) -> Option<Range<usize>> {
        let is_end = |line: &str| {
            let text = line.trim();
            text.len() >= self.ticks && text.bytes().all(|byte| byte == b'`')
        };
        let length = lines[at + 1..].iter().position(|line| is_end(line))?;
        Some(at + 1..at + 1 + length)
    }

    /// Returns what follows the language if that is a shell's.
    fn shell_marker(&self) -> Option<&'a str> {
        let (language, marker) = self.info.split_once(' ').unwrap_or((self.info, ""));
        matches!(language, "sh" | "bash").then(|| marker.trim())
    }

    /// Joins lines without the indentation of the fence, which blocks in lists have.
    fn unindent(&self, lines: &[&str]) -> String {
        let mut text = String::new();
        for line in lines {
            let indent = line.len() - line.trim_start().len();
            text.push_str(&line[indent.min(self.indent)..]);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
# Start
```sh
agent &
```
```text
ready
```
## Next
text
```bash kubernetes
kubectl get pods

kubectl get nodes
```

Prose.
```text
not its output
```
1. In a list:
   ```sh no-test: needs Docker
   docker run \\
     image
   ```
   Prose.
   ```text
   not its output
   ```
```rust
# let sh = 1;
```
";

    #[test]
    fn blocks_have_their_place_scope_and_output() {
        let commands = extract_commands(DOCUMENT).unwrap();
        let [agent, pods, docker] = &commands[..] else {
            panic!("{commands:?}");
        };
        assert_eq!((agent.line, agent.section.as_str()), (2, "Start"));
        assert_eq!(
            (agent.code.as_str(), &agent.scope),
            ("agent &\n", &CommandScope::Machine)
        );
        assert_eq!(agent.output.as_deref(), Some("ready\n"));
        assert_eq!((pods.line, pods.section.as_str()), (10, "Next"));
        assert_eq!(pods.scope, CommandScope::Kubernetes);
        assert_eq!(pods.code, "kubectl get pods\n\nkubectl get nodes\n");
        assert_eq!(docker.scope, CommandScope::Untested("needs Docker".to_owned()));
        assert_eq!(docker.code, "docker run \\\n  image\n");
        assert_eq!(docker.output, None);
    }

    #[test]
    fn a_blank_line_may_separate_commands_from_their_output() {
        let commands = extract_commands("```sh\nls\n```\n\n```text\nREADME.md\n```\n").unwrap();
        assert_eq!(commands[0].output.as_deref(), Some("README.md\n"));
    }

    #[test]
    fn an_unknown_marker_a_missing_reason_or_a_missing_end_is_an_error_with_its_line() {
        for (document, wrong) in [
            ("\n```sh kubernets\nls\n```\n", "line 2: unknown marker"),
            ("```sh no-test:\nls\n```\n", "line 1: no-test: needs a reason"),
            ("text\n```sh\nls\n", "line 2: the block has no end"),
        ] {
            let error = format!("{:#}", extract_commands(document).unwrap_err());
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn longer_fences_contain_shorter_ones_and_inline_code_is_no_fence() {
        let commands = extract_commands("````text\n```sh\nls\n```\n````\n```sh` is inline\n").unwrap();
        assert_eq!(commands, []);
    }
}
