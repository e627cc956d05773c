//! The Redis gateway over one store in this process: no cluster, no replication, nothing kept.
//!
//! For trying clients and for measuring the gateway alone:
//! `cargo run --release -p tetrarch-services --example local_gateway -- 127.0.0.1:6390`
//! then `redis-cli -p 6390` or `redis-benchmark -p 6390 -P 16 -t set,get`.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use tetrarch_services::gateway::local::Local;
use tetrarch_services::gateway::{GatewayConfig, ReadMode, run};
use tetrarch_services::kv::KvConfig;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:6390".into());
    let Ok(listen) = listen.parse() else {
        eprintln!("{listen} is not an address: give one like 127.0.0.1:6390");
        return ExitCode::FAILURE;
    };
    let mut config = GatewayConfig::new(listen);
    if args.next().as_deref() == Some("readonly") {
        config.read_mode = ReadMode::ReadOnly;
    }
    let mut cluster = Local::new(KvConfig { seed: [1, 2], ..KvConfig::default() }, 1024);
    println!("redis-cli -p {}", listen.port());
    match run(&config, &mut cluster, &AtomicBool::new(false)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
