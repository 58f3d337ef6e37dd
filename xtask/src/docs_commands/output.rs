//! Compares the output of commands with the documented one.
//!
//! Numbers, ids, times, folders and the order of lines vary between runs; words do not.

use std::path::Path;

use regex_lite::Regex;

/// How documents name the folder and the machine.
const DOCUMENTED_FOLDER: &str = "/tmp/demo";
const DOCUMENTED_HOST: &str = "vm";

/// What differs between a machine and the documented one.
#[derive(Debug)]
pub(super) struct OutputComparison {
    folder: String,
    host: String,
    id: Regex,
    number: Regex,
}

impl OutputComparison {
    /// Creates a comparison of output from commands that run in `folder`.
    ///
    /// # Errors
    ///
    /// Fails if an expression is wrong.
    pub(super) fn new(folder: &Path) -> anyhow::Result<OutputComparison> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(OutputComparison {
            folder: folder.display().to_string(),
            host: host.trim().to_owned(),
            id: Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")?,
            number: Regex::new("[0-9][0-9.,:]*")?,
        })
    }

    /// Returns the documented lines that the output lacks. The output may have further lines.
    pub(super) fn missing_lines<'a>(&self, documented: &'a str, output: &str) -> Vec<&'a str> {
        let output = output.replace(&self.folder, DOCUMENTED_FOLDER);
        let mut found: Vec<String> = output.lines().map(|line| self.pattern(line)).collect();
        let mut missing = Vec::new();
        for line in documented.lines().filter(|line| !line.trim().is_empty()) {
            let pattern = self.pattern(line);
            match found.iter().position(|other| *other == pattern) {
                Some(at) => drop(found.swap_remove(at)),
                None => missing.push(line),
            }
        }
        missing
    }

    /// Returns a line without what varies.
    fn pattern(&self, line: &str) -> String {
        let line = self.id.replace_all(line, "ID");
        let line = self.number.replace_all(&line, "#");
        let host = self.number.replace_all(&self.host, "#");
        let words = line
            .split_whitespace()
            .map(|word| if word == host { DOCUMENTED_HOST } else { word });
        words.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> OutputComparison {
        OutputComparison {
            host: "box-7".to_owned(),
            ..OutputComparison::new(Path::new("/tmp/x7")).unwrap()
        }
    }

    #[test]
    fn numbers_ids_times_folders_hosts_widths_and_order_vary() {
        let documented = "orders           4  2cff3bab-ff7a-4ae9-8bcf-5402f004ba11\n\
            2 records sent, 0.0 MB in 0.02 s (86 records/s)\n\nobjects   file:/tmp/demo/.streamhouse\nvm 1 127.0.0.1:50051\n";
        let output = "box-7   2  127.0.0.1:7\nan extra line\norders 12 c11be9e8-6233-4e1f-ae9f-e2f3c703b6ec\n\
            objects file:/tmp/x7/.streamhouse\n3 records sent, 1.0 MB in 1 s (1,024 records/s)\n";
        assert_eq!(comparison().missing_lines(documented, output), [""; 0]);
    }

    #[test]
    fn words_and_the_number_of_lines_do_not_vary() {
        let missing = |documented, output| comparison().missing_lines(documented, output).len();
        assert_eq!(missing("created topic orders", "created topic billing"), 1);
        assert_eq!(missing("1@0 a\n2@0 a\n", "0@5 a\n"), 1);
        assert_eq!(missing("", "anything"), 0);
    }
}
