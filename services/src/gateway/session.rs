//! What a connection's commands do: those answered here, transactions, and the rest, which goes to
//! the store.

use std::borrow::Cow;

use super::cluster::Facts;
use super::info;
use super::pipeline::Pipeline;
use crate::kv::command::{Command, Literal};
use crate::kv::op::OperationWriter;
use crate::kv::table::{SPECS, arity_allows, lookup};
use crate::kv::text::{TextError, parse_as};
use crate::resp::{Protocol, RespWriter};
use crate::wire::decimal;

/// What a transaction may hold, below an operation's maximum by what an EXEC adds.
const TRANSACTION_SIZE_MAX: usize = tetrarch_consensus::limits::OPERATION_SIZE_MAX;

/// Bytes of a connection's name.
const NAME_SIZE_MAX: usize = 256;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Facts about the gateway that commands show.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub facts: &'a Facts,
    pub counters: &'a Counters,
    pub connections_max: usize,
}

/// What INFO counts.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counters {
    pub started_s: u64,
    pub port: u16,
    pub connections: usize,
    pub connections_total: u64,
    pub connections_refused: u64,
    pub commands: u64,
    pub protocol_errors: u64,
}

#[derive(Debug, Default)]
struct Transaction {
    operation: OperationWriter,
    /// A command could not be queued: EXEC will refuse.
    spoiled: bool,
}

/// A connection's standing.
#[derive(Debug, Default)]
pub(super) struct Session {
    id: u64,
    protocol: Protocol,
    name: Vec<u8>,
    library: (Vec<u8>, Vec<u8>),
    address: String,
    /// Commands that only read are not ordered.
    reads_unordered: bool,
    transaction: Option<Transaction>,
    /// Emptied, to be used again.
    spare: OperationWriter,
}

/// What becomes of the connection after a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    Continue,
    /// Closes it once everything is answered.
    Close,
}

/// The commands answered here: name, arity, and whether they run inside a transaction.
static LOCAL: &[(&str, i8)] = &[
    ("auth", -2),
    ("client", -2),
    ("command", -1),
    ("config", -2),
    ("discard", 1),
    ("echo", 2),
    ("exec", 1),
    ("hello", -1),
    ("info", -1),
    ("multi", 1),
    ("ping", -1),
    ("quit", -1),
    ("readonly", 1),
    ("readwrite", 1),
    ("reset", 1),
    ("select", 2),
    ("time", 1),
    ("unwatch", 1),
    ("watch", -2),
];

impl Session {
    pub fn new(id: u64, address: String, reads_unordered: bool) -> Self {
        Self { id, address, reads_unordered, ..Self::default() }
    }

    /// Executes one command. Replies known here go to `out` when nothing is owed before them.
    pub fn command(
        &mut self,
        words: &[&[u8]],
        shared: &Shared<'_>,
        pipeline: &mut Pipeline,
        out: &mut Vec<u8>,
    ) -> Then {
        let Some(name) = words.first() else { return Then::Continue };
        // The store's commands first: they are the most frequent.
        if let Some(spec) = lookup(name) {
            match parse_as(spec, words) {
                Ok(command) => self.store(&command, pipeline, out),
                Err(error) => self.refuse(error, words, pipeline, out),
            }
            return Then::Continue;
        }
        let local = LOCAL.iter().find(|(local, _)| name.eq_ignore_ascii_case(local.as_bytes()));
        let Some(&(name, arity)) = local else {
            self.refuse(TextError::Unknown, words, pipeline, out);
            return Then::Continue;
        };
        if !arity_allows(arity, words.len()) || (name == "ping" && words.len() > 2) {
            self.refuse(TextError::Arity(name), words, pipeline, out);
            return Then::Continue;
        }
        self.local(name, words, shared, pipeline, out)
    }

    fn store(&mut self, command: &Command<'_>, pipeline: &mut Pipeline, out: &mut Vec<u8>) {
        let Some(transaction) = &mut self.transaction else {
            let read = self.reads_unordered && command.is_read_only();
            return pipeline.command(command, read, self.protocol);
        };
        let operation = &mut transaction.operation;
        let (size, count) = (operation.size(), operation.count());
        operation.push(command);
        let protocol = self.protocol;
        if operation.size() > TRANSACTION_SIZE_MAX || count == crate::kv::limits::COMMANDS_MAX {
            operation.truncate(size, count);
            transaction.spoiled = true;
            let text = "ERR the transaction is larger than an operation may be \
                        (256 KiB, 1024 commands)";
            return pipeline.local(out, |out| RespWriter::new(out, protocol).error(text));
        }
        pipeline.local(out, |out| RespWriter::new(out, protocol).status("QUEUED"));
    }

    /// Answers an error. Inside a transaction, an error in options only spoils its own place.
    fn refuse(
        &mut self,
        error: TextError<'_>,
        words: &[&[u8]],
        pipeline: &mut Pipeline,
        out: &mut Vec<u8>,
    ) {
        let mut text = Vec::new();
        error.write(words, &mut text);
        if let Some(transaction) = &mut self.transaction {
            if !error.is_structural() {
                let literal = Command::Literal { kind: Literal::Error, text: &text };
                return self.store(&literal, pipeline, out);
            }
            transaction.spoiled = true;
        }
        pipeline.local(out, |out| RespWriter::new(out, self.protocol).error_bytes(&text));
    }

    fn local(
        &mut self,
        name: &str,
        words: &[&[u8]],
        shared: &Shared<'_>,
        pipeline: &mut Pipeline,
        out: &mut Vec<u8>,
    ) -> Then {
        match name {
            "exec" => {
                self.exec(pipeline, out);
                return Then::Continue;
            }
            "quit" => {
                let protocol = self.protocol;
                pipeline.local(out, |out| RespWriter::new(out, protocol).status("OK"));
                return Then::Close;
            }
            _ if self.transaction.is_some()
                && self.inside_transaction(name, words, pipeline, out) =>
            {
                return Then::Continue;
            }
            _ => {}
        }
        if name == "hello" {
            // The reply is in the version that the command asks for.
            let result = self.hello(words);
            let protocol = self.protocol;
            pipeline.local(out, |out| {
                let mut w = RespWriter::new(out, protocol);
                match result {
                    Ok(()) => info::write_hello(&mut w, self.id),
                    Err(text) => w.error(&text),
                }
            });
            return Then::Continue;
        }
        pipeline.local(out, |out| self.answer(name, words, shared, out));
        Then::Continue
    }

    /// Commands that mean something else inside a transaction. False: it ends it.
    fn inside_transaction(
        &mut self,
        name: &str,
        words: &[&[u8]],
        pipeline: &mut Pipeline,
        out: &mut Vec<u8>,
    ) -> bool {
        let protocol = self.protocol;
        let literal = |kind, text| Command::Literal { kind, text };
        let queued = match (name, words) {
            ("discard" | "reset", _) => return false,
            ("ping", [_, text]) | ("echo", [_, text]) => literal(Literal::Bulk, *text),
            ("ping", _) => literal(Literal::Status, &b"PONG"[..]),
            ("select", [_, b"0"]) | ("unwatch", _) => literal(Literal::Status, &b"OK"[..]),
            _ => {
                let text = match name {
                    "multi" => "ERR MULTI calls can not be nested",
                    "watch" => "ERR WATCH inside MULTI is not allowed",
                    _ => "ERR Command not allowed inside a transaction",
                };
                // As in Redis, a nested MULTI does not spoil the transaction.
                if let Some(transaction) = &mut self.transaction
                    && !matches!(name, "multi" | "watch")
                {
                    transaction.spoiled = true;
                }
                pipeline.local(out, |out| RespWriter::new(out, protocol).error(text));
                return true;
            }
        };
        self.store(&queued, pipeline, out);
        true
    }

    fn exec(&mut self, pipeline: &mut Pipeline, out: &mut Vec<u8>) {
        let protocol = self.protocol;
        let Some(mut transaction) = self.transaction.take() else {
            let text = "ERR EXEC without MULTI";
            return pipeline.local(out, |out| RespWriter::new(out, protocol).error(text));
        };
        if transaction.spoiled {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            pipeline.local(out, |out| RespWriter::new(out, protocol).error(text));
        } else if transaction.operation.count() == 0 {
            pipeline.local(out, |out| RespWriter::new(out, protocol).array(0));
        } else {
            pipeline.transaction(&mut transaction.operation, protocol);
        }
        transaction.operation.clear();
        self.spare = transaction.operation;
    }

    fn answer(&mut self, name: &str, words: &[&[u8]], shared: &Shared<'_>, out: &mut Vec<u8>) {
        let mut w = RespWriter::new(out, self.protocol);
        match (name, words) {
            ("ping", [_, text]) | ("echo", [_, text]) => w.bulk(text),
            ("ping", _) => w.status("PONG"),
            ("select", [_, index]) => match decimal(index) {
                Some(0) => w.status("OK"),
                Some(_) => w.error("ERR DB index is out of range"),
                None => w.error("ERR value is not an integer or out of range"),
            },
            ("time", _) => info::write_time(&mut w),
            ("info", _) => {
                w.verbatim(&info::text(&words[1..], shared.counters, shared.facts));
            }
            ("client", _) => self.client(words, out),
            ("config", _) => config(words, shared, &mut w),
            ("command", _) => command(words, &mut w),
            ("multi", _) => {
                let operation = std::mem::take(&mut self.spare);
                self.transaction = Some(Transaction { operation, spoiled: false });
                w.status("OK");
            }
            ("discard", _) => match self.transaction.take() {
                Some(_) => w.status("OK"),
                None => w.error("ERR DISCARD without MULTI"),
            },
            ("watch", _) => {
                w.error("ERR WATCH is not supported: a transaction here is one ordered request");
            }
            ("unwatch", _) => w.status("OK"),
            ("readonly" | "readwrite", _) => {
                self.reads_unordered = name == "readonly";
                w.status("OK");
            }
            ("auth", [_, _]) => w.error(
                "ERR AUTH <password> called without any password configured for the default \
                 user. Are you sure your configuration is correct?",
            ),
            ("auth", [_, _, _]) => {
                w.error(WRONG_PASSWORD);
            }
            ("reset", _) => {
                self.protocol = Protocol::Resp2;
                self.name.clear();
                self.transaction = None;
                RespWriter::new(out, self.protocol).status("RESET");
            }
            _ => w.error("ERR syntax error"),
        }
    }

    fn hello(&mut self, words: &[&[u8]]) -> Result<(), Cow<'static, str>> {
        let mut protocol = self.protocol;
        let mut options = words[1..].iter();
        if let Some(version) = options.next() {
            protocol = match decimal(version) {
                Some(2) => Protocol::Resp2,
                Some(3) => Protocol::Resp3,
                Some(_) => return Err("NOPROTO unsupported protocol version".into()),
                None => return Err("ERR Protocol version is not an integer or out of range".into()),
            };
        }
        let mut name = None;
        while let Some(option) = options.next() {
            if option.eq_ignore_ascii_case(b"auth") && options.len() >= 2 {
                return Err(WRONG_PASSWORD.into());
            }
            match options.next() {
                Some(value) if option.eq_ignore_ascii_case(b"setname") => name = Some(*value),
                _ => {
                    let option = String::from_utf8_lossy(option);
                    let option: String = option.chars().filter(|c| !c.is_control()).collect();
                    return Err(format!("ERR Syntax error in HELLO option '{option}'").into());
                }
            }
        }
        if let Some(name) = name {
            self.set_name(name)?;
        }
        self.protocol = protocol;
        Ok(())
    }

    fn set_name(&mut self, name: &[u8]) -> Result<(), &'static str> {
        if name.len() > NAME_SIZE_MAX || !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            return Err("ERR Client names cannot contain spaces, newlines or special characters.");
        }
        self.name = name.to_vec();
        Ok(())
    }

    fn client(&mut self, words: &[&[u8]], out: &mut Vec<u8>) {
        let sub = words.get(1).copied().unwrap_or_default().to_ascii_lowercase();
        let protocol = self.protocol;
        match (&sub[..], &words[2..]) {
            (b"setname", &[name]) => match self.set_name(name) {
                Ok(()) => RespWriter::new(out, protocol).status("OK"),
                Err(text) => RespWriter::new(out, protocol).error(text),
            },
            (b"setinfo", &[what, value]) => {
                let mut w = RespWriter::new(out, protocol);
                let clean = value.len() <= NAME_SIZE_MAX
                    && value.iter().all(|byte| (b'!'..=b'~').contains(byte));
                match &what.to_ascii_lowercase()[..] {
                    _ if !clean => {
                        w.error("ERR lib-name or lib-ver cannot contain spaces or newlines");
                    }
                    b"lib-name" => {
                        self.library.0 = value.to_vec();
                        w.status("OK");
                    }
                    b"lib-ver" => {
                        self.library.1 = value.to_vec();
                        w.status("OK");
                    }
                    _ => w.error("ERR Unrecognized option"),
                }
            }
            (b"getname", &[]) if self.name.is_empty() => RespWriter::new(out, protocol).nil(),
            (b"getname", &[]) => RespWriter::new(out, protocol).bulk(&self.name),
            (b"id", &[]) => {
                let id = i64::try_from(self.id).unwrap_or(i64::MAX);
                RespWriter::new(out, protocol).integer(id);
            }
            (b"info" | b"list", _) => RespWriter::new(out, protocol).verbatim(&self.describe()),
            (b"no-evict" | b"no-touch", &[_]) => RespWriter::new(out, protocol).status("OK"),
            _ => unknown_subcommand("CLIENT", &sub, &mut RespWriter::new(out, protocol)),
        }
    }

    fn describe(&self) -> String {
        format!(
            "id={} addr={} name={} db=0 multi={} resp={} lib-name={} lib-ver={}\n",
            self.id,
            self.address,
            String::from_utf8_lossy(&self.name),
            self.transaction.as_ref().map_or(-1, |t| t.operation.count() as i64),
            if self.protocol == Protocol::Resp3 { 3 } else { 2 },
            String::from_utf8_lossy(&self.library.0),
            String::from_utf8_lossy(&self.library.1),
        )
    }
}

fn unknown_subcommand(command: &str, sub: &[u8], w: &mut RespWriter<'_>) {
    let sub: String = sub.iter().take(64).map(|byte| byte.escape_ascii().to_string()).collect();
    w.error(&format!(
        "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {command} HELP."
    ));
}

fn config(words: &[&[u8]], shared: &Shared<'_>, w: &mut RespWriter<'_>) {
    let sub = words.get(1).copied().unwrap_or_default();
    if sub.eq_ignore_ascii_case(b"get") && words.len() > 2 {
        info::write_config(&words[2..], shared.connections_max, w);
    } else if sub.eq_ignore_ascii_case(b"set") {
        w.error("ERR CONFIG SET is not supported: the cluster is configured by its files");
    } else if sub.eq_ignore_ascii_case(b"resetstat") {
        w.status("OK");
    } else {
        unknown_subcommand("CONFIG", sub, w);
    }
}

fn command(words: &[&[u8]], w: &mut RespWriter<'_>) {
    let sub = words.get(1).copied().unwrap_or_default().to_ascii_lowercase();
    match &sub[..] {
        b"" => {
            w.array(SPECS.len() + LOCAL.len());
            SPECS.iter().for_each(|spec| info::write_spec(spec, w));
            LOCAL.iter().for_each(|&(name, arity)| info::write_local(name, arity, w));
        }
        b"count" => w.integer((SPECS.len() + LOCAL.len()) as i64),
        b"docs" => w.map(0),
        b"list" => {
            w.array(SPECS.len() + LOCAL.len());
            SPECS.iter().for_each(|spec| w.bulk(spec.name.as_bytes()));
            LOCAL.iter().for_each(|(name, _)| w.bulk(name.as_bytes()));
        }
        b"info" => {
            w.array(words.len() - 2);
            for name in &words[2..] {
                let local = LOCAL.iter().find(|(n, _)| name.eq_ignore_ascii_case(n.as_bytes()));
                match (lookup(name), local) {
                    (Some(spec), _) => info::write_spec(spec, w),
                    (None, Some(&(name, arity))) => info::write_local(name, arity, w),
                    (None, None) => w.nil(),
                }
            }
        }
        _ => unknown_subcommand("COMMAND", &sub, w),
    }
}
