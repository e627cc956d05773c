//! Does this machine have what the transport needs?
//!
//! Owns the list of it, and words for each reason why not. Always true: what passes can open an
//! endpoint, as far as a kernel can be asked. Must not: leave anything behind.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::buffers::Buffers;
use crate::types::OpenError;

/// What the transport uses, by name. Zero-copy transmission came with Linux 6.0, as did receiving
/// many times by one operation, which cannot be asked for.
const OPERATIONS: [(&str, u8); 8] = [
    ("accept", opcode::AcceptMulti::CODE),
    ("recv", opcode::RecvMulti::CODE),
    ("send", opcode::Send::CODE),
    ("sendmsg", opcode::SendMsg::CODE),
    ("poll", opcode::PollAdd::CODE),
    ("cancel", opcode::AsyncCancel2::CODE),
    ("files_update", opcode::FilesUpdate::CODE),
    ("send_zc", opcode::SendZc::CODE),
];

/// Says whether io_uring can be used by this process, on this kernel.
///
/// # Errors
/// Why not, and what to do about it.
pub fn probe() -> Result<(), OpenError> {
    try_ring().map_err(|source| {
        let remedy = match source.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel is built without it, or a sandbox hides it",
            Some(libc::EPERM | libc::EACCES) => permission_remedy(),
            Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l)",
            Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
            _ => "it needs Linux 6.0 or newer, better 6.1",
        };
        OpenError::System {
            action: "use io_uring".into(),
            source,
            remedy: format!("{remedy}; or use transport = \"tcp\""),
        }
    })
}

fn permission_remedy() -> &'static str {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match setting.as_deref().map(str::trim) {
        Ok("1") => {
            "sysctl kernel.io_uring_disabled is 1: set it to 0, or add this user to the group of \
             kernel.io_uring_group"
        }
        Ok("2") => "sysctl kernel.io_uring_disabled is 2: set it to 0",
        _ => "a sandbox forbids it: allow io_uring_setup, io_uring_enter and io_uring_register",
    }
}

fn try_ring() -> io::Result<()> {
    // As `Ring::new` does, with few entries.
    super::ring::Ring::new()?;
    let mut ring = IoUring::new(8)?;
    let features = ring.params();
    if !features.is_feature_ext_arg() || !features.is_feature_nodrop() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    if let Some((name, _)) = OPERATIONS.iter().find(|(_, code)| !known.is_supported(*code)) {
        return Err(io::Error::other(format!("the kernel has no operation \"{name}\"")));
    }
    // A sandbox may permit a ring and forbid to enter it.
    // SAFETY: the operation does nothing and refers to no memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    pushed.map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
    ring.submit_and_wait(1)?;
    ring.submitter().register_files_sparse(4)?;
    let mut buffers =
        Buffers::new(1, 4096).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    buffers.register(&ring.submitter())?;
    // The ring first: the kernel must not know memory that is freed.
    drop(ring);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::transport::choice::{self, TransportKind};
    use crate::transport::tcp::TcpConfig;

    /// From here on this thread, and no other, may not use io_uring: system call `number` fails with
    /// `error`. That is what container runtimes do.
    fn forbid(number: i64, error: i32) {
        const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let mut steps = [
            step(LOAD_NUMBER, 0, 0, 0),
            step(JUMP_IF_EQUAL, 0, 1, number as u32),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: the program and its header live for both calls, which copy them.
        let results = unsafe {
            let unprivileged = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let mode = libc::SECCOMP_MODE_FILTER;
            [unprivileged, libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0, 0)]
        };
        assert_eq!(results, [0, 0], "filters are permitted to those who cannot gain privileges");
    }

    #[test]
    fn without_io_uring_auto_falls_back_and_the_name_fails() {
        for (number, error, words) in [
            (libc::SYS_io_uring_setup, libc::EPERM, "sandbox forbids"),
            (libc::SYS_io_uring_setup, libc::ENOSYS, "without it"),
            (libc::SYS_io_uring_enter, libc::EPERM, "sandbox forbids"),
            (libc::SYS_io_uring_register, libc::EACCES, "sandbox forbids"),
        ] {
            let thread = std::thread::spawn(move || {
                forbid(number, error);
                let listen = || Some(([127, 0, 0, 1], 0).into());
                let tcp = || TcpConfig { listen: listen(), ..TcpConfig::default() };
                let chosen = choice::open(TransportKind::Auto.into(), tcp()).unwrap();
                assert_eq!(chosen.transport.name(), "tcp");
                let line = chosen.fallback.unwrap();
                let refused = choice::open(TransportKind::IoUring.into(), tcp()).err().unwrap();
                (line, refused.to_string())
            });
            let (line, refused) = thread.join().unwrap();
            assert!(line.starts_with("transport = \"auto\" uses TCP over epoll: cannot"), "{line}");
            assert!(!line.contains('\n'), "{line}");
            for text in [line, refused] {
                assert!(text.contains("cannot use io_uring") && text.contains(words), "{text}");
                assert!(text.contains("use transport = \"tcp\""), "{text}");
            }
        }
    }
}
