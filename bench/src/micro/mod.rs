//! Hot functions, each as a loop of a given number of turns: what the instruction budgets count.
//!
//! A case prepares its data, then runs. Counting two numbers of turns and taking the difference
//! leaves the preparation out, so a budget is instructions per turn and the same on every run of one
//! binary on one kind of processor. Each crate's cases are in a file of their own.

mod consensus;
mod dataplane;
mod links;
pub mod replica;

/// One hot function: a name and a loop.
pub struct Case {
    /// Name, as in `bench/budget.toml`.
    pub name: &'static str,
    /// What one turn does.
    pub what: &'static str,
    run: fn(u64),
}

/// How a case is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counting {
    /// The two numbers of turns.
    pub turns: (u64, u64),
    /// Count only inside the function of this name: the rest of the case is others' work.
    pub inside: Option<&'static str>,
}

impl Case {
    /// How it is counted: one replica of a cluster and the links only inside a function of their own,
    /// the rest as a whole.
    pub fn counting(&self) -> Counting {
        if replica::CASES.iter().any(|case| case.name == self.name) {
            Counting { turns: (2048, 6144), inside: Some(replica::counted(self.name)) }
        } else {
            Counting { turns: (100, 300), inside: links::counted(self.name) }
        }
    }

    /// Runs `turns` turns.
    pub fn run(&self, turns: u64) {
        (self.run)(turns);
    }
}

/// All cases, crate by crate.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    dataplane::CASES.iter().chain(links::CASES).chain(consensus::CASES).chain(replica::CASES)
}

/// The case called `name`.
pub fn find(name: &str) -> Option<&'static Case> {
    cases().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_and_has_a_name_of_its_own() {
        for case in cases() {
            // Those of a replica have a test of their own.
            if replica::CASES.iter().all(|other| other.name != case.name) {
                case.run(2);
            }
            assert_eq!(cases().filter(|other| other.name == case.name).count(), 1);
            assert!(find(case.name).is_some());
        }
        assert!(find("no_such_case").is_none());
    }
}
