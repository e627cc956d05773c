//! The `tetrarch` command.
//!
//! Owns the process: allocator, arguments, exit status. Always true: an error is one message that
//! says what to do, and exit status 1. Must not: do any of the work itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tetrarch_appliance::cli::{
    CheckpointCommand, Cli, Command, GatewayCommand, InitArgs, LogCommand, PlacementArgs,
    ReplicaArgs, StatusArgs, ViewAddArgs, ViewCommand, ViewKeysArgs, ViewRemoveArgs,
    ViewReplaceArgs, ViewRotateArgs, ViewSetFArgs,
};
use tetrarch_appliance::cluster_command::{self, ClusterOptions};
use tetrarch_appliance::config::{PlacementFile, PlacementPlan};
use tetrarch_appliance::init::{InitOptions, VIEW_MANAGER_KEY, client_key_name, init};
use tetrarch_appliance::machine::Machine;
use tetrarch_appliance::replica_command::How;
use tetrarch_appliance::status::Report;
use tetrarch_appliance::view::change::Change;
use tetrarch_appliance::view::keys::{self, KeysOptions};
use tetrarch_appliance::{
    checkpoint_command, demo, gateway, log_command, placement_command, replica_command, view,
};
use tetrarch_client::cluster::PublicKeys;
use tetrarch_consensus::ReplicaId;
use tetrarch_dataplane::alloc_guard::FrozenAllocator;

#[global_allocator]
static ALLOCATOR: FrozenAllocator<mimalloc::MiMalloc> = FrozenAllocator::new(mimalloc::MiMalloc);

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tetrarch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(args) => {
            return Ok(if demo::run(&args)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Init(args) => make(args)?,
        Command::Replica(args) => {
            let ReplicaArgs { directory, id, fresh, join, with_parent } = args;
            replica_command::run(&directory, id, How { fresh, join, with_parent })?;
        }
        Command::Cluster(args) => {
            let options = ClusterOptions { kill_after: args.kill_after, restart: args.restart };
            cluster_command::run(&args.directory, options)?;
        }
        Command::Status(args) => return status(&args),
        Command::Placement(args) => placement(&args)?,
        Command::Log(LogCommand::Verify(args)) => {
            log_command::run(&args.directory, args.id, false)?
        }
        Command::Log(LogCommand::Dump(args)) => log_command::run(&args.directory, args.id, true)?,
        Command::Checkpoint(CheckpointCommand::List(args)) => {
            checkpoint_command::run(&args.directory, args.id, false)?;
        }
        Command::Checkpoint(CheckpointCommand::Verify(args)) => {
            checkpoint_command::run(&args.directory, args.id, true)?;
        }
        Command::View(command) => view(command)?,
        Command::Gateway(GatewayCommand::Redis(args)) => gateway::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn make(args: InitArgs) -> Result<()> {
    let options = InitOptions {
        replicas: args.replicas,
        f: args.f,
        depth: usize::from(args.depth),
        model: args.model.into(),
        clients: args.clients,
        base_port: args.base_port,
        hosts: args.hosts,
        service: args.service,
        request_timeout_ms: args.request_timeout_ms,
        durable: args.durable,
        checkpoint_every: args.checkpoint_every,
        transport: args.transport,
        placement: PlacementFile {
            layout: args.layout,
            idle: args.idle,
            ..PlacementFile::default()
        },
        frames_mib: args.frames_mib,
    };
    let cluster = init(&args.directory, &options)?;
    let directory = args.directory.display();
    println!(
        "Made cluster {:016x} in {directory}: {} replicas, f = {}, {} clients, service {}.\n",
        cluster.id,
        cluster.members.len(),
        cluster.f,
        cluster.clients.len(),
        options.service.name(),
    );
    println!("The *.key files are secret, each for one owner. Give a machine cluster.toml and the");
    println!(
        "files of its own replica or client (such as {}), nothing else.\n",
        client_key_name(0)
    );
    println!(
        "{VIEW_MANAGER_KEY} can change who the replicas are: keep it where none of them runs.\n"
    );
    println!("  tetrarch cluster {directory}             run all replicas here");
    println!("  tetrarch replica {directory} --id 0      run one replica");
    println!("  tetrarch status {directory}              see how they are");
    println!("  tetrarch gateway redis {directory}       let Redis clients use it");
    Ok(())
}

fn view(command: ViewCommand) -> Result<()> {
    let ids = |ids: Vec<u16>| ids.into_iter().map(ReplicaId).collect();
    let load = |files: &[PathBuf]| {
        let keys = files.iter().map(|file| PublicKeys::load(file));
        keys.collect::<Result<Vec<_>, _>>()
    };
    let (args, change) = match command {
        ViewCommand::Keys(args) => return make_keys(args),
        ViewCommand::Show(args) => return view::command::show(&args.directory),
        ViewCommand::Add(ViewAddArgs { view, keys, f }) => {
            (view, Change { add: load(&keys)?, f, ..Change::default() })
        }
        ViewCommand::Remove(ViewRemoveArgs { view, ids: gone, f }) => {
            (view, Change { remove: ids(gone), f, ..Change::default() })
        }
        ViewCommand::Replace(ViewReplaceArgs { view, old, keys }) => {
            (view, Change { remove: ids(vec![old]), add: load(&[keys])?, ..Change::default() })
        }
        ViewCommand::SetF(ViewSetFArgs { view, f }) => {
            (view, Change { f: Some(f), ..Change::default() })
        }
        ViewCommand::RotateKeys(ViewRotateArgs { view, keys }) => {
            (view, Change { rekey: load(&keys)?, ..Change::default() })
        }
    };
    view::command::run(&args.directory, &change, args.dry_run)
}

fn make_keys(args: ViewKeysArgs) -> Result<()> {
    let ViewKeysArgs { directory, id, address, metrics, like } = args;
    let made = keys::make(&directory, &KeysOptions { id, address, metrics, like })?;
    println!("Made {}: secret, and stays on this machine.", made.private.display());
    if let Some(config) = made.config {
        println!("Made {}: look through it.", config.display());
    }
    println!("Made {}: bring it to whoever has {VIEW_MANAGER_KEY}.", made.public.display());
    Ok(())
}

fn placement(args: &PlacementArgs) -> Result<()> {
    let file = PlacementPlan::load(&args.directory, args.id)?;
    let report = placement_command::Report::new(&file, Machine::read());
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    let report = Report::collect(&args.directory)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    let enough = report.reachable() >= report.quorum;
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
