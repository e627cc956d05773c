//! Which core a thread runs on.
//!
//! Owns nothing. Always true: pinning either worked or says which cores there are. Must not: be
//! called after a core's loop has started.

use crate::types::OpenError;
use std::fmt;

/// A logical processor, by the number that the operating system gives it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(pub usize);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.0)
    }
}

/// The cores that the calling thread may run on, ascending. A container or `taskset` may allow
/// fewer than the machine has; a thread that is pinned sees only its own.
///
/// # Errors
/// If the operating system does not tell.
pub fn allowed_cores() -> Result<Vec<CoreId>, OpenError> {
    let mut cores: Vec<CoreId> = core_affinity::get_core_ids()
        .ok_or_else(|| OpenError::Unsupported {
            what: "the list of processors".into(),
            remedy: "leave the placement without pinned cores".into(),
        })?
        .into_iter()
        .map(|core| CoreId(core.id))
        .collect();
    cores.sort_unstable();
    Ok(cores)
}

/// Let the calling thread run on `core` and nowhere else.
///
/// # Errors
/// If the core does not exist or is not allowed; names those that are.
pub fn pin_current(core: CoreId) -> Result<(), OpenError> {
    let allowed = allowed_cores()?;
    let refused = |problem: &str| OpenError::BadValue {
        field: "core".into(),
        value: core.0.to_string(),
        problem: problem.into(),
        remedy: format!("this process may use {}", list(&allowed)),
    };
    if !allowed.contains(&core) {
        return Err(refused("no such core, or not allowed for this process"));
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core.0 }) {
        return Err(refused("the system refused to pin the thread"));
    }
    Ok(())
}

fn list(cores: &[CoreId]) -> String {
    let numbers: Vec<String> = cores.iter().map(|core| core.0.to_string()).collect();
    format!("cores {}", numbers.join(", "))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_is_allowed_only_its_core() {
        // In a thread of its own: pinning cannot be undone.
        std::thread::spawn(|| {
            let core = *allowed_cores().unwrap().last().unwrap();
            pin_current(core).unwrap();
            assert_eq!(allowed_cores().unwrap(), [core]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_missing_core_is_named_with_those_that_exist() {
        let error = pin_current(CoreId(99_999)).unwrap_err().to_string();
        assert!(error.starts_with("core = 99999: no such core"), "{error}");
        assert!(error.contains("may use cores "), "{error}");
    }
}
