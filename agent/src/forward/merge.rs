//! Brings the results of a request's parts, forwarded and own ones, into the order of the request.

/// Puts forwarded results, in ascending order of their places, among those of the other parts.
pub(crate) fn merge_results<T>(results: &mut Vec<T>, forwarded: Vec<(usize, T)>) {
    if forwarded.is_empty() {
        return;
    }
    let mut own = std::mem::take(results).into_iter();
    results.reserve_exact(own.len() + forwarded.len());
    for (at, result) in forwarded {
        let before = at.saturating_sub(results.len());
        results.extend(own.by_ref().take(before));
        results.push(result);
    }
    results.extend(own);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::merge_results;

    proptest! {
        #[test]
        fn each_result_gets_its_place(forwarded in prop::collection::vec(any::<bool>(), 0..40)) {
            let all: Vec<usize> = (0..forwarded.len()).collect();
            let (theirs, mut results): (Vec<usize>, Vec<usize>) = all.iter().partition(|at| forwarded[**at]);
            merge_results(&mut results, theirs.into_iter().map(|at| (at, at)).collect());
            prop_assert_eq!(results, all);
        }
    }

    #[test]
    fn a_part_that_is_missing_leaves_no_gap() {
        let mut results = vec!["own"];
        merge_results(&mut results, vec![(0, "first"), (7, "last")]);
        assert_eq!(results, ["first", "own", "last"]);
    }

    /// With one insertion each, this moves some hundred gigabytes.
    #[test]
    fn many_results_are_merged_in_one_pass() {
        const PARTS: usize = 1_000_000;
        let mut results: Vec<[usize; 16]> = (0..PARTS).step_by(2).map(|at| [at; 16]).collect();
        let forwarded = (1..PARTS).step_by(2).map(|at| (at, [at; 16])).collect();
        merge_results(&mut results, forwarded);
        assert!(results.iter().map(|result| result[0]).eq(0..PARTS));
    }
}
