//! The services that a replica can run.
//!
//! Owns their names in configuration. Always true: a service and its validator are chosen together.
//! Must not: know what they do.

use tetrarch_consensus::{RequestValidator, StateMachine};
use tetrarch_services::kv::{KvConfig, KvService, KvValidator};
use tetrarch_services::maplist::{MapListLimits, MapListService, MapListValidator};
use tetrarch_services::null::{NullService, NullValidator};

/// Orders what a service keeps in no order of its own. The same on all replicas, and not known to
/// clients, who could choose keys that collide.
pub type Seed = [u64; 2];

/// The state machine, and what it takes for a command: what a program embeds that has a service of its own.
pub type Service = (Box<dyn StateMachine>, Box<dyn RequestValidator>);

/// What a cluster replicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub enum ServiceKind {
    /// A key-value store for Redis clients, through `tetrarch gateway redis`.
    Kv,
    /// The map of lists of the thesis.
    MapList,
    /// Nothing, for measurements.
    Null,
}

impl ServiceKind {
    /// All of them.
    pub const ALL: [ServiceKind; 3] = [Self::Kv, Self::MapList, Self::Null];

    /// The name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::MapList => "maplist",
            Self::Null => "null",
        }
    }

    /// The service of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The service without any state, and what it takes for a command. All replicas of a cluster
    /// must give the same `seed`.
    pub fn build(self, seed: Seed) -> Service {
        match self {
            Self::Kv => {
                let config = KvConfig { seed, ..KvConfig::default() };
                (Box::new(KvService::new(config)), Box::new(KvValidator))
            }
            Self::MapList => (
                Box::new(MapListService::new(MapListLimits::default())),
                Box::new(MapListValidator),
            ),
            Self::Null => (Box::new(NullService::new()), Box::new(NullValidator)),
        }
    }
}

/// The names of all services, for messages.
pub fn names() -> String {
    ServiceKind::ALL.map(|kind| format!("{:?}", kind.name())).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_found_by_its_name() {
        for kind in ServiceKind::ALL {
            assert_eq!(ServiceKind::from_name(kind.name()), Some(kind));
            let (service, _) = kind.build([1, 2]);
            assert_eq!(service.digest(), kind.build([1, 2]).0.digest());
        }
        assert_eq!(ServiceKind::from_name("redis"), None);
        assert_eq!(names(), "\"kv\", \"maplist\", \"null\"");
    }
}
