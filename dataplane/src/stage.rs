//! A pipeline on one thread: stages in order, one timestamp a turn, forever.
//!
//! Owns the stages of a core. Always true: a turn reads no clock and never blocks; the clock is
//! read once per turn; only an idle core parks, never beyond the next deadline, and never so long
//! that it would not notice the order to stop. Must not: know what a stage does. The simulator
//! calls `turn` itself.

use crate::affinity::{self, CoreId};
use crate::clock::Clock;
use crate::endpoint::Waker;
use crate::types::{Instant, OpenError};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

/// Longest sleep of a core whose stage is woken by what it waits for: bounds how late an order to
/// stop is noticed.
pub const PARK_MAX: Duration = Duration::from_millis(10);

/// Longest sleep of a core that nobody wakes: one whose waker was never asked for, or with a stage
/// that waits for room in a ring. Bounds the latency that sleeping adds.
pub const PARK_UNWOKEN_MAX: Duration = Duration::from_micros(200);

/// Idle turns before an adaptive core parks: about 100 microseconds of an empty pipeline, several
/// times what parking and waking cost.
pub const ADAPTIVE_SPIN_TURNS: u32 = 1000;

/// Did a stage, or a whole turn, do anything?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There was nothing to do.
    Idle,
    /// Something was done; there may be more.
    Worked,
}

impl Progress {
    /// `Worked` if either is.
    pub fn or(self, other: Progress) -> Progress {
        if self == Progress::Worked { self } else { other }
    }
}

/// A piece of a pipeline, with its own rings and state.
pub trait Stage: Send {
    /// For metrics and messages.
    fn name(&self) -> &'static str;

    /// Do at most one burst of work. Must not block, and must not allocate in steady state.
    fn poll(&mut self, now: Instant) -> Progress;

    /// When `poll` has to be called even if nothing arrives.
    fn next_deadline(&self) -> Option<Instant>;

    /// Sleep until there is work for this stage, at most `limit`. Only a stage that owns something
    /// that can wake it (an endpoint) overrides this; the default does not sleep and says so.
    fn park(&mut self, limit: Duration) -> bool {
        let _ = limit;
        false
    }

    /// Does it have work that waits for room in a ring? Nobody wakes it when there is some, so its
    /// core sleeps for a short time only.
    fn waits_for_room(&self) -> bool {
        false
    }
}

/// What a core does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdlePolicy {
    /// Keep polling: least latency, for a core that nothing else runs on.
    Spin,
    /// Poll for a bounded number of turns, then sleep.
    Adaptive,
    /// Sleep at once: for cores that are shared.
    Park,
}

/// What a core has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoreReport {
    /// All turns.
    pub turns: u64,
    /// Turns in which some stage worked.
    pub worked: u64,
    /// How often it slept.
    pub parks: u64,
}

/// A thread's whole program.
pub struct Core {
    name: String,
    stages: Vec<Box<dyn Stage>>,
    policy: IdlePolicy,
    report: CoreReport,
    /// The thread it runs on, once it runs.
    thread: Arc<OnceLock<Thread>>,
    /// Somebody holds its waker, and so wakes it for what is put into its rings.
    woken: bool,
    /// [`PARK_MAX`], but in tests.
    park_max: Duration,
}

impl Core {
    /// A core that runs `stages` in this order.
    pub fn new(name: impl Into<String>, stages: Vec<Box<dyn Stage>>, policy: IdlePolicy) -> Self {
        let thread = Arc::new(OnceLock::new());
        Self {
            name: name.into(),
            stages,
            policy,
            report: CoreReport::default(),
            thread,
            woken: false,
            park_max: PARK_MAX,
        }
    }

    /// Adds a stage that runs after the others.
    pub fn push(&mut self, stage: Box<dyn Stage>) {
        self.stages.push(stage);
    }

    /// Ends the sleep of a core on which no stage parks (one that does is woken in its own way), from
    /// any thread, also a sleep that is about to begin. Whoever puts something into a ring of one of
    /// its stages calls it afterwards; from now on the core relies on that.
    pub fn waker(&mut self) -> Waker {
        self.woken = true;
        let thread = Arc::clone(&self.thread);
        Waker::new(move || {
            // Pairs with the fence in `run`: either the thread sees what was put into the ring when
            // it first polls, or it is seen here. The token of `unpark` outlives a missed sleep.
            fence(Ordering::SeqCst);
            if let Some(thread) = thread.get() {
                thread.unpark();
            }
        })
    }

    /// For messages and thread names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Poll every stage once, all with the same time.
    pub fn turn(&mut self, now: Instant) -> Progress {
        let progress = self
            .stages
            .iter_mut()
            .fold(Progress::Idle, |progress, stage| progress.or(stage.poll(now)));
        self.report.turns += 1;
        self.report.worked += u64::from(progress == Progress::Worked);
        progress
    }

    /// The earliest deadline of any stage.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.stages.iter().filter_map(|stage| stage.next_deadline()).min()
    }

    /// What it has done so far.
    pub fn report(&self) -> CoreReport {
        self.report
    }

    /// Turn until `stop` is set, on the calling thread.
    ///
    /// # Errors
    /// If the thread cannot be pinned to `pin`; then no stage was polled.
    pub fn run(
        mut self,
        clock: impl Clock,
        stop: &AtomicBool,
        pin: Option<CoreId>,
    ) -> Result<CoreReport, OpenError> {
        if let Some(core) = pin {
            affinity::pin_current(core)?;
        }
        // Runs once, so nobody set it before.
        let _ = self.thread.set(std::thread::current());
        fence(Ordering::SeqCst);
        let mut idle_turns = 0u32;
        while !stop.load(Ordering::Acquire) {
            let now = clock.now();
            if self.turn(now) == Progress::Worked {
                idle_turns = 0;
                continue;
            }
            idle_turns = idle_turns.saturating_add(1);
            if self.should_park(idle_turns) {
                self.park(now);
            } else {
                std::hint::spin_loop();
            }
        }
        Ok(self.report)
    }

    fn should_park(&self, idle_turns: u32) -> bool {
        match self.policy {
            IdlePolicy::Spin => false,
            IdlePolicy::Adaptive => idle_turns > ADAPTIVE_SPIN_TURNS,
            IdlePolicy::Park => true,
        }
    }

    /// Sleep until the next deadline, until a stage is woken, or for a bounded time.
    fn park(&mut self, now: Instant) {
        let until_deadline = self.next_deadline().map_or(self.park_max, |at| at.since(now));
        let waits = self.stages.iter().any(|stage| stage.waits_for_room());
        let limit = until_deadline.min(if waits { PARK_UNWOKEN_MAX } else { self.park_max });
        if limit.is_zero() {
            return;
        }
        self.report.parks += 1;
        // The last stage that can be woken sleeps for all: a core has one endpoint to wait for.
        if !self.stages.iter_mut().rev().any(|stage| stage.park(limit)) {
            let limit = if self.woken { limit } else { limit.min(PARK_UNWOKEN_MAX) };
            std::thread::park_timeout(limit);
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<&str> = self.stages.iter().map(|stage| stage.name()).collect();
        write!(f, "Core({}: {}, {:?})", self.name, stages.join(" > "), self.policy)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::{Consumer, Producer, ring};
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::Mutex;

    /// What happened, in order.
    type Log = Arc<Mutex<Vec<String>>>;

    struct Recorder {
        name: &'static str,
        work: u32,
        deadline: Option<Instant>,
        parks: bool,
        log: Log,
    }

    impl Recorder {
        fn note(&self, what: String) {
            self.log.lock().expect("no test panicked").push(format!("{} {what}", self.name));
        }
    }

    impl Stage for Recorder {
        fn name(&self) -> &'static str {
            self.name
        }

        fn poll(&mut self, now: Instant) -> Progress {
            self.note(format!("poll {}", now.0));
            if self.work == 0 {
                return Progress::Idle;
            }
            self.work -= 1;
            Progress::Worked
        }

        fn next_deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn park(&mut self, limit: Duration) -> bool {
            if self.parks {
                self.note(format!("park {}", limit.as_nanos()));
            }
            self.parks
        }
    }

    /// Moves on by 1 at each reading and orders to stop at the last.
    struct Countdown<'a> {
        now: Cell<u64>,
        last: u64,
        stop: &'a AtomicBool,
    }

    impl Clock for Countdown<'_> {
        fn now(&self) -> Instant {
            self.now.set(self.now.get() + 1);
            self.stop.store(self.now.get() >= self.last, Ordering::Release);
            Instant(self.now.get())
        }
    }

    fn recorder(name: &'static str, log: &Log) -> Recorder {
        Recorder { name, work: 0, deadline: None, parks: false, log: log.clone() }
    }

    fn run(policy: IdlePolicy, stages: Vec<Recorder>, turns: u64) -> CoreReport {
        let stop = AtomicBool::new(false);
        let clock = Countdown { now: Cell::new(0), last: turns, stop: &stop };
        let stages = stages.into_iter().map(|stage| Box::new(stage) as Box<dyn Stage>).collect();
        Core::new("test", stages, policy).run(clock, &stop, None).expect("nothing to pin")
    }

    #[test]
    fn a_turn_polls_all_stages_in_order_with_one_time() {
        let log = Log::default();
        let stages = vec![
            Box::new(recorder("a", &log)) as Box<dyn Stage>,
            Box::new(Recorder { work: 1, ..recorder("b", &log) }),
        ];
        let mut core = Core::new("test", stages, IdlePolicy::Spin);
        assert_eq!(core.turn(Instant(7)), Progress::Worked);
        assert_eq!(core.turn(Instant(8)), Progress::Idle);
        assert_eq!(*log.lock().unwrap(), ["a poll 7", "b poll 7", "a poll 8", "b poll 8"]);
        assert_eq!(core.report(), CoreReport { turns: 2, worked: 1, parks: 0 });
        assert_eq!(format!("{core:?}"), "Core(test: a > b, Spin)");
    }

    #[test]
    fn the_earliest_deadline_counts() {
        let log = Log::default();
        let with =
            |deadline| Box::new(Recorder { deadline, ..recorder("s", &log) }) as Box<dyn Stage>;
        let core = |deadlines: &[Option<Instant>]| {
            Core::new("test", deadlines.iter().map(|d| with(*d)).collect(), IdlePolicy::Park)
                .next_deadline()
        };
        assert_eq!(core(&[]), None);
        assert_eq!(core(&[None, Some(Instant(9)), Some(Instant(4))]), Some(Instant(4)));
    }

    #[test]
    fn spinning_never_parks() {
        let log = Log::default();
        let stage = Recorder { parks: true, ..recorder("a", &log) };
        let report = run(IdlePolicy::Spin, vec![stage], 5000);
        assert_eq!(report, CoreReport { turns: 5000, worked: 0, parks: 0 });
    }

    #[test]
    fn parking_sleeps_in_the_last_stage_that_can_be_woken() {
        let log = Log::default();
        let stages = vec![
            Recorder { parks: true, ..recorder("a", &log) },
            Recorder {
                parks: true,
                work: 1,
                deadline: Some(Instant(1_000)),
                ..recorder("b", &log)
            },
            recorder("c", &log),
        ];
        let report = run(IdlePolicy::Park, stages, 2);
        assert_eq!(report, CoreReport { turns: 2, worked: 1, parks: 1 });
        let log = log.lock().unwrap();
        assert_eq!(log.last().unwrap(), "b park 998", "not beyond the deadline");
        assert_eq!(log.iter().filter(|entry| entry.contains("park")).count(), 1);
    }

    #[test]
    fn a_deadline_that_has_come_is_not_slept_over() {
        let log = Log::default();
        let stage = Recorder { parks: true, deadline: Some(Instant(0)), ..recorder("a", &log) };
        assert_eq!(run(IdlePolicy::Park, vec![stage], 3).parks, 0);
    }

    #[test]
    fn sleep_is_bounded_without_a_deadline() {
        let log = Log::default();
        let stage = Recorder { parks: true, ..recorder("a", &log) };
        assert_eq!(run(IdlePolicy::Park, vec![stage], 1).parks, 1);
        assert_eq!(*log.lock().unwrap(), ["a poll 1", "a park 10000000"]);
    }

    #[test]
    fn adaptive_parks_only_after_many_idle_turns() {
        let log = Log::default();
        let stage = || Recorder { parks: true, work: 10, ..recorder("a", &log) };
        let spin = u64::from(ADAPTIVE_SPIN_TURNS);
        assert_eq!(run(IdlePolicy::Adaptive, vec![stage()], 10 + spin).parks, 0);
        assert_eq!(run(IdlePolicy::Adaptive, vec![stage()], 13 + spin).parks, 3);
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error_before_any_poll() {
        let log = Log::default();
        let core = Core::new("test", vec![Box::new(recorder("a", &log))], IdlePolicy::Spin);
        let stop = AtomicBool::new(false);
        let error = core.run(Instant(1), &stop, Some(CoreId(99_999))).unwrap_err();
        assert!(error.to_string().contains("99999"));
        assert!(log.lock().unwrap().is_empty());
    }

    struct Adder {
        input: Consumer<u64>,
        output: Producer<u64>,
    }

    impl Stage for Adder {
        fn name(&self) -> &'static str {
            "adder"
        }

        fn poll(&mut self, _now: Instant) -> Progress {
            if self.output.room() == 0 {
                return Progress::Idle;
            }
            let Some(item) = self.input.pop() else {
                return Progress::Idle;
            };
            self.output.push(item + 1).expect("the room was checked");
            Progress::Worked
        }

        fn next_deadline(&self) -> Option<Instant> {
            None
        }
    }

    /// Takes one item at a time, and says so.
    struct Taker {
        input: Consumer<u64>,
        taken: std::sync::mpsc::Sender<u64>,
    }

    impl Stage for Taker {
        fn name(&self) -> &'static str {
            "taker"
        }

        fn poll(&mut self, _now: Instant) -> Progress {
            let Some(item) = self.input.pop() else {
                return Progress::Idle;
            };
            self.taken.send(item).expect("the test listens");
            Progress::Worked
        }

        fn next_deadline(&self) -> Option<Instant> {
            None
        }
    }

    /// Each item is put into the ring of a core that sleeps, or is about to, and that would sleep for
    /// an hour: one lost wake, and the test waits in vain.
    #[test]
    fn a_sleeping_core_is_woken_for_each_item() {
        const ITEMS: u64 = 2000;
        let (mut tx, input) = ring(4);
        let (taken, items) = std::sync::mpsc::channel();
        let taker = Box::new(Taker { input, taken });
        let mut core = Core::new("taker", vec![taker], IdlePolicy::Park);
        core.park_max = Duration::from_secs(3600);
        let waker = core.waker();
        let stop = Arc::new(AtomicBool::new(false));
        let order = Arc::clone(&stop);
        let core =
            std::thread::spawn(move || core.run(crate::clock::SystemClock::new(), &order, None));
        for item in 0..ITEMS {
            tx.push(item).unwrap();
            waker.wake();
            assert_eq!(items.recv_timeout(Duration::from_secs(60)), Ok(item), "a lost wake");
        }
        stop.store(true, Ordering::Release);
        waker.wake();
        assert_eq!(core.join().unwrap().unwrap().worked, ITEMS);
    }

    #[test]
    fn a_core_that_waits_for_room_sleeps_shortly_and_the_stage_with_an_endpoint_knows() {
        struct Waiting(Recorder);
        impl Stage for Waiting {
            fn name(&self) -> &'static str {
                "w"
            }
            fn poll(&mut self, _now: Instant) -> Progress {
                Progress::Idle
            }
            fn next_deadline(&self) -> Option<Instant> {
                None
            }
            fn park(&mut self, limit: Duration) -> bool {
                self.0.park(limit)
            }
            fn waits_for_room(&self) -> bool {
                true
            }
        }
        let log = Log::default();
        let stage = Waiting(Recorder { parks: true, ..recorder("a", &log) });
        let stop = AtomicBool::new(false);
        let clock = Countdown { now: Cell::new(0), last: 1, stop: &stop };
        Core::new("test", vec![Box::new(stage)], IdlePolicy::Park).run(clock, &stop, None).unwrap();
        assert_eq!(*log.lock().unwrap(), ["a park 200000"]);
    }

    /// The same stages on one thread or on two give the same result.
    #[test]
    fn stages_run_fused_or_spread() {
        for cores in [1, 2] {
            let (mut tx, input) = ring(4);
            let (output, middle) = ring(4);
            let (last, mut rx) = ring(4);
            let first = Box::new(Adder { input, output }) as Box<dyn Stage>;
            let second = Box::new(Adder { input: middle, output: last }) as Box<dyn Stage>;
            let plan: Vec<Vec<Box<dyn Stage>>> = if cores == 1 {
                vec![vec![first, second]]
            } else {
                vec![vec![first], vec![second]]
            };
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for stages in plan {
                    let stop = &stop;
                    scope.spawn(move || {
                        let core = Core::new("adders", stages, IdlePolicy::Park);
                        core.run(crate::clock::SystemClock::new(), stop, None).unwrap()
                    });
                }
                let (mut sent, mut received) = (0, 0);
                while received < 500 {
                    if sent < 500 && tx.push(sent).is_ok() {
                        sent += 1;
                    }
                    match rx.pop() {
                        Some(item) => {
                            assert_eq!(item, received + 2);
                            received += 1;
                        }
                        None => std::thread::yield_now(),
                    }
                }
                stop.store(true, Ordering::Release);
            });
        }
    }
}
