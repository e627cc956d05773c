//! A client core whose members are played by the test.

use alloc::vec::Vec;

use super::*;

pub(super) type Bytes = SharedBytes;

pub(super) const IDENTITY: u32 = 3;
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn view(n: u16) -> View {
    let members = (0..n).map(|index| ReplicaId(10 + index)).collect();
    let f = crate::quorum::Quorums::faults_tolerated(n.into(), FaultModel::Byzantine);
    View::new(ViewId(0), members, f, FaultModel::Byzantine).expect("enough members")
}

pub(super) fn config(window: usize) -> ClientConfig {
    ClientConfig {
        identity: IDENTITY,
        incarnation: 5,
        view: view(4),
        request_timeout: TIMEOUT,
        sessions_max: 8,
        window,
        authentication: Authentication::MacVector,
        reply: ReplyForm::Digest,
        kept_size_max: 1 << 16,
    }
}

/// A request as a member sees it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) to: To,
    pub(super) sign: bool,
    pub(super) header: RequestHeader,
    pub(super) operation: Vec<u8>,
}

pub(super) struct Harness {
    pub(super) core: ClientCore<Bytes>,
    pub(super) actions: Actions<ClientAction<Bytes>>,
    pub(super) now: Instant,
    pub(super) sent: Vec<Sent>,
    pub(super) completed: Vec<(Ticket, Result<Vec<u8>, Status>)>,
    pub(super) outdated: Vec<ViewId>,
    pub(super) followed: Vec<ViewId>,
    pub(super) notices: Vec<Notice>,
}

impl Harness {
    pub(super) fn new(config: ClientConfig, matching: Matching<Bytes>) -> Self {
        Self {
            core: ClientCore::new(config, matching, Box::new(HeapPool)),
            actions: Actions::with_capacity(ACTIONS_MAX),
            now: Instant(1_000_000_000_000),
            sent: Vec::new(),
            completed: Vec::new(),
            outdated: Vec::new(),
            followed: Vec::new(),
            notices: Vec::new(),
        }
    }

    pub(super) fn plain() -> Self {
        Self::new(config(SESSION_WINDOW), Matching::Equal)
    }

    pub(super) fn collect(&mut self) {
        assert!(self.actions.as_slice().len() <= ACTIONS_MAX, "rule CORE.2");
        for action in self.actions.drain() {
            match action {
                ClientAction::Send { to, client, body, sign } => {
                    let header = RequestHeader::parse(body.bytes()).expect("well formed");
                    assert_eq!((header.client, client.identity()), (client, IDENTITY));
                    let operation = body.bytes()[REQUEST_HEADER_SIZE..].to_vec();
                    self.sent.push(Sent { to, sign, header, operation });
                }
                ClientAction::Completed { ticket, outcome, .. } => {
                    let outcome = match outcome {
                        Outcome::Done(result) => Ok(result.bytes().to_vec()),
                        Outcome::Forgotten => Err(Status::TooOld),
                        Outcome::Refused => Err(Status::Refused),
                    };
                    self.completed.push((ticket, outcome));
                }
                ClientAction::Outdated { view } => self.outdated.push(view),
                ClientAction::Followed { membership } => {
                    self.followed.push(membership.next.id());
                }
                ClientAction::Notice(notice) => self.notices.push(notice),
                ClientAction::Invoked { .. } => {}
            }
        }
    }

    pub(super) fn invoke(
        &mut self,
        session: u32,
        mode: Mode,
        operation: &[u8],
    ) -> Result<Ticket, Busy> {
        let result = self.core.invoke(self.now, session, mode, operation, &mut self.actions);
        self.collect();
        result
    }

    pub(super) fn ordered(&mut self, operation: &[u8]) -> Ticket {
        self.invoke(0, Mode::Ordered, operation).expect("room")
    }

    pub(super) fn reply(&mut self, member: u16, to: &RequestHeader, status: Status, result: &[u8]) {
        self.reply_in(ViewId(0), member, to, status, result);
    }

    pub(super) fn reply_in(
        &mut self,
        view: ViewId,
        member: u16,
        to: &RequestHeader,
        status: Status,
        result: &[u8],
    ) {
        let body = body(view, to, status, result);
        let digest = Digest(*blake3::hash(&body).as_bytes());
        self.hear(member, &body, digest);
    }

    /// The digest of what would be the reply.
    pub(super) fn reply_digest(&mut self, member: u16, to: &RequestHeader, result: &[u8]) {
        let whole = body(ViewId(0), to, Status::Ok, result);
        let digest = Digest(*blake3::hash(&whole).as_bytes());
        let mut short = [0; DIGEST_REPLY_SIZE];
        write_digest_reply(&whole, &digest, &mut short);
        self.hear(member, &short, Digest(*blake3::hash(&short).as_bytes()));
    }

    fn hear(&mut self, member: u16, body: &[u8], digest: Digest) {
        let reply = Reply::parse(SharedBytes::from(body), digest).expect("well formed");
        let input = ClientInput::Reply { from: ReplicaId(10 + member), reply };
        self.core.step(self.now, input, &mut self.actions);
        self.collect();
    }

    /// All members' links come up.
    pub(super) fn connect(&mut self) {
        for member in 10..14 {
            let input = ClientInput::Connected(ReplicaId(member));
            self.core.step(self.now, input, &mut self.actions);
        }
        self.pass(Duration::ZERO);
    }

    pub(super) fn all_reply(&mut self, to: &RequestHeader, result: &[u8]) {
        (0..4).for_each(|member| self.reply(member, to, Status::Ok, result));
    }

    /// Lets time pass, with the deadlines that come.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.core.next_deadline().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.core.step(self.now, ClientInput::Deadline, &mut self.actions);
            self.collect();
        }
        self.now = end;
    }

    pub(super) fn take_sent(&mut self) -> Vec<Sent> {
        core::mem::take(&mut self.sent)
    }
}

/// A whole reply.
fn body(view: ViewId, to: &RequestHeader, status: Status, result: &[u8]) -> Vec<u8> {
    let mut body = alloc::vec![0; REPLY_HEADER_SIZE];
    let header = ReplyHeader {
        client: to.client,
        sequence: to.sequence,
        view,
        read_only: to.read_only,
        digest: false,
        status,
        result_size: result.len() as u32,
    };
    header.write(&mut body);
    body.extend_from_slice(result);
    body
}
