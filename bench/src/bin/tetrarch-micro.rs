//! Runs one hot function for a number of turns, for callgrind to count. See `bench/README.md`.

use std::process::ExitCode;

use tetrarch_bench::micro::{Counting, cases, find};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            for case in cases() {
                let Counting { turns: (few, many), inside } = case.counting();
                println!("{} {few} {many} {} {}", case.name, inside.unwrap_or("-"), case.what);
            }
            ExitCode::SUCCESS
        }
        [name, turns] => match (find(name), turns.parse()) {
            (Some(case), Ok(turns)) => {
                case.run(turns);
                ExitCode::SUCCESS
            }
            (None, _) => fail(&format!("no case is called '{name}'; --list names them")),
            (_, Err(_)) => fail(&format!("'{turns}' is not a number of turns")),
        },
        _ => fail("usage: tetrarch-micro CASE TURNS | --list"),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("tetrarch-micro: {text}");
    ExitCode::FAILURE
}
