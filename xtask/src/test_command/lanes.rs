//! Which stage runs when: some first, then two lanes side by side.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plan::{StageLane, StageSpec};
use super::stage::RunningStage;
use super::summary::StageResult;

const POLL: Duration = Duration::from_millis(100);

/// Runs stages in a repository.
#[derive(Debug)]
pub(crate) struct StageLanes {
    root: PathBuf,
    /// The variables of each stage, by its name.
    environments: BTreeMap<&'static str, BTreeMap<String, String>>,
    arguments: Vec<String>,
}

impl StageLanes {
    pub(crate) fn new(
        root: &Path,
        environments: BTreeMap<&'static str, BTreeMap<String, String>>,
        arguments: &[String],
    ) -> StageLanes {
        StageLanes {
            root: root.to_owned(),
            environments,
            arguments: arguments.to_owned(),
        }
    }

    /// Runs the stages. Results come in the stages' order.
    pub(crate) fn run(
        &mut self,
        stages: &[&'static StageSpec],
        one_by_one: bool,
    ) -> anyhow::Result<Vec<StageResult>> {
        let mut results = Vec::new();
        for queues in queues(stages, one_by_one) {
            self.run_side_by_side(queues, &mut results)?;
        }
        let place = |result: &StageResult| stages.iter().position(|stage| stage.name == result.name);
        results.sort_by_key(place);
        Ok(results)
    }

    fn run_side_by_side(
        &self,
        mut queues: Vec<VecDeque<&'static StageSpec>>,
        results: &mut Vec<StageResult>,
    ) -> anyhow::Result<()> {
        let mut running: Vec<Option<RunningStage>> = queues.iter().map(|_| None).collect();
        loop {
            for (lane, queue) in queues.iter_mut().enumerate() {
                if running[lane].is_none()
                    && let Some(spec) = queue.pop_front()
                {
                    let beside = if lane > 0 {
                        ", beside; its output follows when it ends"
                    } else {
                        ""
                    };
                    println!("\n==> {}{beside}", spec.name);
                    running[lane] = Some(RunningStage::start(
                        &self.root,
                        spec,
                        self.environments.get(spec.name).unwrap_or(&BTreeMap::new()),
                        &self.arguments,
                    )?);
                }
            }
            // One stage speaks at a time: that of the first lane that runs.
            let Some(speaker) = running.iter().position(Option::is_some) else {
                return Ok(());
            };
            for (lane, slot) in running.iter_mut().enumerate() {
                let Some(stage) = slot else { continue };
                if lane == speaker && !stage.live {
                    stage.live = true;
                    if lane > 0 {
                        println!("\n==> {}, which still runs", stage.name);
                    }
                }
                if let Some(result) = stage.poll()? {
                    if !stage.live {
                        println!("\n==> {}, which has ended", stage.name);
                        stage.print(true);
                    }
                    println!("    {}: {}", result.name, result.line());
                    results.push(result);
                    *slot = None;
                }
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Groups of queues that run side by side, one group after the other.
fn queues(stages: &[&'static StageSpec], one_by_one: bool) -> Vec<Vec<VecDeque<&'static StageSpec>>> {
    if one_by_one {
        return vec![vec![stages.iter().copied().collect()]];
    }
    let of = |lane: StageLane| {
        stages
            .iter()
            .copied()
            .filter(move |stage| stage.lane == lane)
            .collect()
    };
    let lanes = [StageLane::Main, StageLane::Beside].map(of);
    let lanes = lanes.into_iter().filter(|lane: &VecDeque<_>| !lane.is_empty());
    vec![vec![of(StageLane::First)], lanes.collect()]
}

#[cfg(test)]
mod tests {
    use super::super::plan::STAGES;
    use super::*;

    fn names(stages: &VecDeque<&'static StageSpec>) -> Vec<&'static str> {
        stages.iter().map(|stage| stage.name).collect()
    }

    #[test]
    fn what_compiles_runs_first_and_tests_beside_what_reads_the_code() {
        let all: Vec<&StageSpec> = STAGES.iter().collect();
        let groups = queues(&all, false);
        assert_eq!(names(&groups[0][0]), ["format", "structure", "build"]);
        assert_eq!(names(&groups[1][0])[..2], ["tests", "demo"]);
        assert_eq!(names(&groups[1][1])[..2], ["lint", "docs"]);
        assert!(names(&groups[1][1]).ends_with(&["operator", "cluster"]));
        let count: usize = groups.iter().flatten().map(VecDeque::len).sum();
        assert_eq!(count, STAGES.len());
    }

    #[test]
    fn one_by_one_is_the_order_of_the_plan() {
        let all: Vec<&StageSpec> = STAGES.iter().collect();
        let groups = queues(&all, true);
        assert_eq!((groups.len(), groups[0].len()), (1, 1));
        assert_eq!(groups[0][0].len(), STAGES.len());
    }

    #[test]
    fn only_stages_that_read_the_code_are_nice() {
        let nice = STAGES.iter().filter(|stage| stage.nice);
        assert!(nice.into_iter().all(|stage| stage.lane == StageLane::Beside));
    }
}
