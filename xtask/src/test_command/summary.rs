//! The end of a run: each stage's time, what made stages fail, how many tests passed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How a stage ended.
#[derive(Debug, Clone)]
pub(crate) struct StageResult {
    pub(crate) name: &'static str,
    pub(crate) passed: bool,
    pub(crate) time: Duration,
    /// The processors' time that its processes took.
    pub(crate) processors: Duration,
    pub(crate) output: String,
}

impl StageResult {
    /// `ok 1 min 02 s`, and the share of the processors.
    pub(crate) fn line(&self) -> String {
        let passed = if self.passed { "ok" } else { "FAILED" };
        let busy = self.processors.as_secs_f64() / self.time.as_secs_f64().max(0.1);
        format!("{passed:<7} {}  {busy:.1} processors busy", minutes(self.time))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests of a repository take real time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Prints the table, the reasons, and the sum of the tests; the exit code tells whether all passed.
pub(crate) fn print(results: &[StageResult], begin: Instant) -> ExitCode {
    println!("\n==> summary");
    for result in results {
        println!("    {:<14} {}", result.name, result.line());
    }
    let failed: Vec<&StageResult> = results.iter().filter(|result| !result.passed).collect();
    let all = if failed.is_empty() { "ok" } else { "FAILED" };
    let time = now().saturating_duration_since(begin);
    println!("    {:<14} {all:<7} {}", "all", minutes(time));
    for result in &failed {
        println!("\n{}:\n{}", result.name, why_failed(&result.output));
    }
    let tests = results.iter().find(|result| result.name == "tests");
    if let Some(total) = tests.and_then(|tests| total(&tests.output)) {
        println!("\n{total}");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn minutes(time: Duration) -> String {
    format!("{:>2} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

/// The first lines that say what was wrong, or else the last ones.
fn why_failed(output: &str) -> String {
    const BEGINNINGS: &[&str] = &["error", "Error", "ERROR", "AssertionError", "FAILED"];
    let lines = || output.lines().filter(|line| !line.starts_with("xtask-cpu "));
    let tells = |line: &&str| {
        let failed_test = line.starts_with("test ") && line.ends_with(" FAILED");
        failed_test || line.contains("panicked at") || BEGINNINGS.iter().any(|begin| line.starts_with(begin))
    };
    let mut telling: Vec<&str> = lines().filter(tells).take(12).collect();
    if telling.is_empty() {
        telling = lines().collect();
        telling.drain(..telling.len().saturating_sub(12));
    }
    let cut = telling
        .iter()
        .map(|line| line.chars().take(400).collect::<String>());
    cut.collect::<Vec<_>>().join("\n")
}

/// The sum of the lines in which cargo says how a suite went.
fn total(output: &str) -> Option<String> {
    let (mut suites, mut sums) = (0, [0_u64; 3]);
    for line in output
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        suites += 1;
        let words: Vec<&str> = line.split_whitespace().collect();
        for (sum, what) in sums.iter_mut().zip(["passed;", "failed;", "ignored;"]) {
            let count = words.windows(2).find(|pair| pair[1] == what);
            *sum += count.and_then(|pair| pair[0].parse().ok()).unwrap_or(0);
        }
    }
    let [passed, failed, ignored] = sums;
    let all = if failed == 0 { "ok" } else { "FAILED" };
    (suites > 0).then(|| {
        format!("test result: {all}. {passed} passed; {failed} failed; {ignored} ignored; in {suites} suites")
    })
}

/// What bash measured: `xtask-cpu USER SYSTEM`, in seconds.
pub(crate) fn processors(output: &str) -> Duration {
    let line = output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("xtask-cpu "));
    let seconds = line.into_iter().flat_map(str::split_whitespace);
    let sum: f64 = seconds.filter_map(|value| value.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(sum.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_tell_what_was_wrong_come_first() {
        let output = "fine\ntest a ... FAILED\nmore\nerror: it broke\nlast\n";
        assert_eq!(why_failed(output), "test a ... FAILED\nerror: it broke");
    }

    #[test]
    fn without_such_lines_the_end_tells() {
        let output: String = (0..20).map(|number| format!("line {number}\n")).collect();
        let why = why_failed(&(output + "xtask-cpu 1.0 2.0\n"));
        assert!(why.starts_with("line 8\n") && why.ends_with("line 19"));
    }

    #[test]
    fn suites_are_summed() {
        let output = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        let expected = "test result: FAILED. 5 passed; 1 failed; 1 ignored; in 2 suites";
        assert_eq!(total(output).as_deref(), Some(expected));
        assert_eq!(total("no tests here"), None);
    }

    #[test]
    fn the_processors_time_is_what_bash_says_last() {
        assert_eq!(processors("a\nxtask-cpu 1.500 0.500\n"), Duration::from_secs(2));
        assert_eq!(processors("nothing"), Duration::ZERO);
    }
}
