//! The command line of `tetrarch`.
//!
//! Owns its form and help texts. Always true: every option says what it is for and its default.
//! Must not: do anything.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tetrarch_consensus::FaultModel;
use tetrarch_dataplane::transport::choice::TransportKind;

use tetrarch_client::cluster::CHECKPOINT_EVERY;

use crate::service::ServiceKind;

/// Byzantine fault-tolerant replication: requests are ordered by Mod-SMaRt on n = 3f + 1 replicas,
/// of which f may do anything at all.
#[derive(Parser, Debug)]
#[command(name = "tetrarch", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run four replicas and a load in this process, kill the leader half way, show the result
    Demo(DemoArgs),
    /// Make a cluster directory: keys and configuration for all replicas and clients
    Init(InitArgs),
    /// Run one replica of a cluster directory
    Replica(ReplicaArgs),
    /// Run all replicas of a cluster directory as local processes
    Cluster(ClusterArgs),
    /// Ask every replica how it is
    Status(StatusArgs),
    /// Show which stage of a replica runs on which processor of this machine, why, and what would be
    /// better
    Placement(PlacementArgs),
    /// Look at the log of a durable replica that is down
    #[command(subcommand)]
    Log(LogCommand),
    /// Look at the checkpoints of a durable replica that is down
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Change who the replicas of a cluster are, while it works
    #[command(subcommand)]
    View(ViewCommand),
    /// Let clients of other protocols use a cluster
    #[command(subcommand)]
    Gateway(GatewayCommand),
}

/// What to do with a log.
#[derive(Subcommand, Debug)]
pub enum LogCommand {
    /// Check it: segments, records, what follows from what, digests of requests, signatures
    Verify(LogArgs),
    /// Check it and print a line for each record
    Dump(LogArgs),
}

/// What to do with the membership.
#[derive(Subcommand, Debug)]
pub enum ViewCommand {
    /// On a replica's own machine: make keys for it, and a configuration if it has none. What it prints
    /// says what to bring to the View Manager
    Keys(ViewKeysArgs),
    /// Print the membership that this directory's cluster.toml describes
    Show(ViewShowArgs),
    /// Let replicas join whose keys were made with `view keys`
    Add(ViewAddArgs),
    /// Let members go
    Remove(ViewRemoveArgs),
    /// Let one member go and another one come in its place
    Replace(ViewReplaceArgs),
    /// Tolerate another number of faults
    SetF(ViewSetFArgs),
    /// Give members the keys that were made for them with `view keys`
    RotateKeys(ViewRotateArgs),
}

/// What all changes of the membership have in common.
#[derive(Args, Debug)]
pub struct ViewArgs {
    /// The View Manager's cluster directory: cluster.toml and view-manager.key
    pub directory: PathBuf,
    /// Show what would change, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `view show`.
#[derive(Args, Debug)]
pub struct ViewShowArgs {
    /// The cluster directory
    pub directory: PathBuf,
}

/// Options of `view add`.
#[derive(Args, Debug)]
pub struct ViewAddArgs {
    /// Where, and how.
    #[command(flatten)]
    pub view: ViewArgs,
    /// The file that `view keys` made on the replica's machine; once for each replica that joins
    #[arg(long, required = true)]
    pub keys: Vec<PathBuf>,
    /// Faults to tolerate from then on [default: as before]
    #[arg(long)]
    pub f: Option<usize>,
}

/// Options of `view remove`.
#[derive(Args, Debug)]
pub struct ViewRemoveArgs {
    /// Where, and how.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Which replicas
    #[arg(required = true)]
    pub ids: Vec<u16>,
    /// Faults to tolerate from then on [default: as before]
    #[arg(long)]
    pub f: Option<usize>,
}

/// Options of `view replace`.
#[derive(Args, Debug)]
pub struct ViewReplaceArgs {
    /// Where, and how.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Who goes
    pub old: u16,
    /// The file that `view keys` made on the machine of whoever comes
    #[arg(long)]
    pub keys: PathBuf,
}

/// Options of `view set-f`.
#[derive(Args, Debug)]
pub struct ViewSetFArgs {
    /// Where, and how.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Faults to tolerate from then on
    pub f: usize,
}

/// Options of `view rotate-keys`.
#[derive(Args, Debug)]
pub struct ViewRotateArgs {
    /// Where, and how.
    #[command(flatten)]
    pub view: ViewArgs,
    /// The file that `view keys` made on the replica's machine; once for each replica
    #[arg(long, required = true)]
    pub keys: Vec<PathBuf>,
}

/// Options of `view keys`.
#[derive(Args, Debug)]
pub struct ViewKeysArgs {
    /// The cluster directory of that machine
    pub directory: PathBuf,
    /// Which replica: an id that no replica has, or one that shall get new keys
    #[arg(long)]
    pub id: u16,
    /// Where others will reach it, host:port [default: where it is, if it is a member]
    #[arg(long)]
    pub address: Option<String>,
    /// Where it will serve metrics and status, host:port, if it has no configuration yet
    #[arg(long)]
    pub metrics: Option<String>,
    /// Whose configuration it takes all else from, if it has none yet [default: the first there is]
    #[arg(long)]
    pub like: Option<u16>,
}

/// What to do with checkpoints.
#[derive(Subcommand, Debug)]
pub enum CheckpointCommand {
    /// Print a line for each: instance, base, size, digest
    List(LogArgs),
    /// Check each: every chunk, the digest of all, sessions, replies, and that the service takes it
    Verify(LogArgs),
}

/// Options of `log` and `checkpoint`.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// The cluster directory
    pub directory: PathBuf,
    /// Whose log
    #[arg(long)]
    pub id: u16,
}

/// Which faults are tolerated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Model {
    /// f replicas may do anything at all; needs n >= 3f + 1
    Byzantine,
    /// f replicas may stop; needs n >= 2f + 1
    Crash,
}

impl From<Model> for FaultModel {
    fn from(model: Model) -> Self {
        match model {
            Model::Byzantine => Self::Byzantine,
            Model::Crash => Self::Crash,
        }
    }
}

/// Options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Seconds of load, half before and half after the leader's death
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=120))]
    pub seconds: u64,
    /// Sessions that write and read
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub sessions: u32,
    /// How long the oldest request may wait before a leader is suspected, ms
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=5000))]
    pub request_timeout_ms: u64,
}

/// Options of `init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The directory to make; must not exist or be empty
    pub directory: PathBuf,
    /// How many replicas
    #[arg(long, default_value_t = 4)]
    pub replicas: u16,
    /// Faulty replicas to tolerate [default: as many as the replicas allow]
    #[arg(long)]
    pub f: Option<usize>,
    /// Instances of consensus that may run at the same time, 1 to 32
    #[arg(long, default_value_t = 1)]
    pub depth: u8,
    /// Which faults are tolerated
    #[arg(long, value_enum, default_value_t = Model::Byzantine)]
    pub model: Model,
    /// How many client identities, each with keys of its own
    #[arg(long, default_value_t = 4)]
    pub clients: u32,
    /// Replica i listens at this port plus i; its metrics at this port plus n plus i
    #[arg(long, default_value_t = 7000)]
    pub base_port: u16,
    /// Hosts that the replicas run on, in turn [default: 127.0.0.1]
    #[arg(long, value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// What is replicated
    #[arg(long, value_enum, default_value_t = ServiceKind::Kv)]
    pub service: ServiceKind,
    /// How long the oldest request may wait before a leader is suspected, ms; the one timeout
    #[arg(long, default_value_t = 2000)]
    pub request_timeout_ms: u64,
    /// Replicas keep logs: what was acknowledged survives when all of them go down
    #[arg(long)]
    pub durable: bool,
    /// Decisions from one checkpoint of a durable replica to the next; 0: none, and logs grow without end
    #[arg(long, default_value_t = CHECKPOINT_EVERY)]
    pub checkpoint_every: u64,
    /// What moves the bytes: auto (the faster one that there is), io_uring, or tcp (epoll)
    #[arg(long, default_value = "auto")]
    pub transport: TransportKind,
    /// What an idle core does: park (shared cores), adaptive, or spin (dedicated cores)
    #[arg(long, default_value = "park", value_parser = ["park", "adaptive", "spin"])]
    pub idle: String,
    /// Where stages run: fused (one core) or spread (several)
    #[arg(long, default_value = "fused", value_parser = ["fused", "spread"])]
    pub layout: String,
    /// Memory for messages in flight, MiB [default: 128]
    #[arg(long)]
    pub frames_mib: Option<usize>,
}

/// Options of `replica`.
#[derive(Args, Debug)]
pub struct ReplicaArgs {
    /// The cluster directory
    pub directory: PathBuf,
    /// Which replica
    #[arg(long)]
    pub id: u16,
    /// Start from nothing although it ran before: only if every replica of the cluster was stopped
    #[arg(long)]
    pub fresh: bool,
    /// Wait until cluster.toml names this replica, then join
    #[arg(long, conflicts_with = "fresh")]
    pub join: bool,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// Options of `cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// The cluster directory
    pub directory: PathBuf,
    /// Kill the leader with SIGKILL after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub kill_after: Option<u64>,
    /// Start replicas again that end
    #[arg(long)]
    pub restart: bool,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The cluster directory
    pub directory: PathBuf,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// Options of `placement`.
#[derive(Args, Debug)]
pub struct PlacementArgs {
    /// The cluster directory
    pub directory: PathBuf,
    /// Which replica
    #[arg(long, default_value_t = 0)]
    pub id: u16,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// The gateways.
#[derive(Subcommand, Debug)]
pub enum GatewayCommand {
    /// RESP2 and RESP3, for redis-cli, redis-benchmark and Redis client libraries
    Redis(GatewayArgs),
}

/// How reads are carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Reads {
    /// Like writes, in the order that all replicas agree on
    Ordered,
    /// From the current state of a quorum; ordered only when the replicas' answers differ
    ReadOnly,
}

/// Options of `gateway redis`.
#[derive(Args, Debug)]
pub struct GatewayArgs {
    /// The cluster directory
    pub directory: PathBuf,
    /// Which client identity the gateway uses; no two gateways may use one
    #[arg(long, default_value_t = 0)]
    pub client: u32,
    /// Where Redis clients connect
    #[arg(long, default_value = "127.0.0.1:6379")]
    pub listen: SocketAddr,
    /// How reads are carried out
    #[arg(long, value_enum, default_value_t = Reads::Ordered)]
    pub reads: Reads,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_commands_parse() {
        for line in [
            "tetrarch demo",
            "tetrarch init d --replicas 4 --f 1 --model crash --clients 3 --base-port 9000",
            "tetrarch init d --hosts a,b,c --service maplist",
            "tetrarch replica d --id 2",
            "tetrarch cluster d --kill-after 5 --restart",
            "tetrarch status d --json",
            "tetrarch log verify d --id 3",
            "tetrarch checkpoint list d --id 3",
            "tetrarch checkpoint verify d --id 3",
            "tetrarch placement d --id 1 --json",
            "tetrarch view show d",
            "tetrarch view add d --keys a.public --keys b.public --f 2 --dry-run",
            "tetrarch view remove d 4 5 --f 1",
            "tetrarch view replace d 3 --keys 4.public",
            "tetrarch view set-f d 2",
            "tetrarch view rotate-keys d --keys replica-2.public",
            "tetrarch view keys d --id 4 --address h:7004 --metrics h:7014 --like 0",
            "tetrarch gateway redis d --client 1 --listen 127.0.0.1:6379 --reads read-only",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
        assert!(Cli::try_parse_from(["tetrarch", "init"]).is_err());
    }
}
