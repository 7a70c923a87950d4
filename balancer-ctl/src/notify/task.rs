//! The thread that runs notify programs.
//!
//! Two kinds of bounded queues: one of events to the policy, and one of runs for each entry, whose program runs once at a time so
//! that the order is kept. What does not fit is dropped and counted, and the count is logged.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinSet},
    time::{sleep, sleep_until, timeout},
};

use super::{
    invocation::{Sender, invocation},
    policy::{EntryId, Notification, Policy},
};
use crate::{
    model::{Model, Notify, view::EventRecord},
    os::{
        clock,
        program::{Account, ExitReason, Finished, Output, Program, trusted_with_news},
    },
};

/// Capacity of the event queue: as many as there can be real servers.
const MAX_QUEUED_EVENTS: usize = 32_768;
/// Capacity of each entry's queue of runs.
const MAX_QUEUED_PER_ENTRY: usize = 4096;
/// How many programs run at once, of all entries together.
const MAX_RUNNING: usize = 8;
/// Least time between two log lines about dropped events.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long running and queued programs have when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for killed programs to be reaped.
const REAP_TIMEOUT: Duration = Duration::from_millis(50);
/// How many lines of a program's output are logged; the next constant is their greatest length in bytes.
const MAX_LINES: usize = 50;
const MAX_LINE_BYTES: usize = 1000;

/// A handle to the thread. No call waits.
#[derive(Debug)]
pub struct Notifier {
    messages: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
    done: oneshot::Receiver<()>,
}

#[derive(Debug)]
enum Message {
    Configure(Box<Model>),
    Tell(EventRecord),
    Assume(EventRecord, Instant, Instant),
}

/// Counters that the handle and the thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Whether any program is configured.
    is_wanted: AtomicBool,
    /// Events in the queue.
    waiting: AtomicUsize,
    /// Events that were dropped because the queue was full.
    lost: AtomicU64,
}

/// Checks that a program may be run with its arguments; returns why not.
type ProgramCheck = fn(&[String], &Account) -> Result<(), String>;

impl Notifier {
    /// Starts the thread. `state` is the daemon's state directory, whose path programs are given.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(state: &Path) -> io::Result<Self> {
        Self::start_with(state, trusted_with_news)
    }

    /// Starts the thread, with programs judged by `judge` right before each start.
    fn start_with(state: &Path, judge: ProgramCheck) -> io::Result<Self> {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (end, done) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut task = Task::new(inbox, Arc::clone(&shared), state.to_owned(), judge);
        thread::Builder::new()
            .name("notify".to_owned())
            .spawn(move || {
                runtime.block_on(task.run());
                // Whoever waited may have given up.
                let _ = end.send(());
            })?;
        Ok(Self {
            messages,
            shared,
            done,
        })
    }

    /// Takes over a model's entries and service names. Called for the first model and after each change, before or after the events
    /// of the change.
    pub fn configure(&self, model: &Model) {
        let is_wanted = !model.notify.is_empty();
        let was_wanted = self.shared.is_wanted.swap(is_wanted, Ordering::Relaxed);
        if is_wanted || was_wanted {
            self.send(Message::Configure(Box::new(model.clone())));
        }
    }

    /// Queues an event.
    pub fn tell(&self, event: EventRecord) {
        self.send_event(event, Message::Tell);
    }

    /// Takes over a condition that began with `event` at `began` under an earlier daemon, which ran until `until`, so that its end is
    /// reported.
    pub fn assume(&self, event: EventRecord, began: Instant, until: Instant) {
        self.send_event(event, |event| Message::Assume(event, began, until));
    }

    /// Ends the thread. Running and queued programs have a few seconds, then they are killed or dropped.
    pub async fn stop(self) {
        drop(self.messages);
        let longest = DRAIN_TIMEOUT + REAP_TIMEOUT + Duration::from_secs(1);
        // It ends by itself, unless the system does not let it.
        let _ = timeout(longest, self.done).await;
    }

    fn send_event(&self, event: EventRecord, message: impl FnOnce(EventRecord) -> Message) {
        if !self.shared.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_QUEUED_EVENTS {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.send(message(event));
    }

    fn send(&self, message: Message) {
        // Without the thread there is no one to tell; that it ended was said then.
        let _ = self.messages.send(message);
    }
}

/// The thread's state.
struct Task {
    inbox: mpsc::UnboundedReceiver<Message>,
    shared: Arc<Shared>,
    state: PathBuf,
    judge: ProgramCheck,
    node: String,
    policy: Policy,
    lines: Queues,
    /// Running programs; each returns why its program did not run, if so.
    running: JoinSet<Option<String>>,
    /// The entry of each running task.
    runs: HashMap<task::Id, EntryId>,
    losses: DroppedCounts,
}

impl Task {
    fn new(
        inbox: mpsc::UnboundedReceiver<Message>,
        shared: Arc<Shared>,
        state: PathBuf,
        judge: ProgramCheck,
    ) -> Self {
        Self {
            inbox,
            shared,
            state,
            judge,
            node: String::new(),
            policy: Policy::default(),
            lines: Queues::default(),
            running: JoinSet::new(),
            runs: HashMap::new(),
            losses: DroppedCounts::default(),
        }
    }

    async fn run(&mut self) {
        loop {
            let deadline = earlier(self.policy.next_deadline(), self.losses.next_log());
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = until(deadline) => {
                    let tells = self.policy.expire(Instant::now());
                    self.queue(tells);
                }
            }
            self.losses.events += self.shared.lost.swap(0, Ordering::Relaxed);
            self.losses.log(Instant::now());
            self.start_programs();
        }
        self.drain().await;
    }

    fn take(&mut self, message: Message) {
        let now = Instant::now();
        match message {
            Message::Configure(model) => {
                let tells = self.policy.configure(&model, &clock::now_utc());
                self.queue(tells);
                self.lines.keep(&self.policy.entries().collect());
                self.node = model.node;
            }
            Message::Tell(event) => {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                let tells = self.policy.handle(&event, now);
                self.queue(tells);
            }
            Message::Assume(event, began, until) => {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                self.policy.assume(&event, began, until);
            }
        }
    }

    fn queue(&mut self, tells: Vec<Notification>) {
        for tell in tells {
            if !self.lines.push(tell) {
                self.losses.tells += 1;
            }
        }
    }

    fn start_programs(&mut self) {
        while self.running.len() < MAX_RUNNING
            && let Some(tell) = self.lines.next()
        {
            let teller = Sender {
                node: &self.node,
                state: &self.state,
            };
            let program = invocation(&tell.event, &tell.notify, teller);
            let entry = tell.entry;
            let judge = self.judge;
            let run = async move { run(&program, &tell, judge).await };
            self.runs.insert(self.running.spawn(run).id(), entry);
        }
    }

    fn ended(&mut self, ended: Result<(task::Id, Option<String>), task::JoinError>) {
        let id = match ended {
            Ok((id, failure)) => {
                self.losses.take(failure);
                id
            }
            Err(error) => {
                tracing::error!(%error, "a notify program's task failed");
                error.id()
            }
        };
        if let Some(entry) = self.runs.remove(&id) {
            self.lines.is_free(entry);
        }
    }

    /// Waits up to [`DRAIN_TIMEOUT`] for running and queued programs.
    async fn drain(&mut self) {
        let rest = async {
            loop {
                self.start_programs();
                let Some(ended) = self.running.join_next_with_id().await else {
                    return;
                };
                self.ended(ended);
            }
        };
        if timeout(DRAIN_TIMEOUT, rest).await.is_ok() {
            return;
        }
        tracing::warn!(
            running = self.running.len(),
            waiting = self.lines.waiting(),
            "notify programs are given up, the daemon stops"
        );
        self.running.shutdown().await;
        sleep(REAP_TIMEOUT).await;
    }
}

/// The queues of all entries.
#[derive(Debug, Default)]
struct Queues {
    lines: HashMap<EntryId, Queue>,
    /// Entries with queued runs whose program is not running, in turn.
    ready: VecDeque<EntryId>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Notification>,
    is_running: bool,
}

impl Queues {
    /// Queues a run; `false` = the queue is full.
    fn push(&mut self, tell: Notification) -> bool {
        let entry = tell.entry;
        let line = self.lines.entry(entry).or_default();
        if line.waiting.len() >= MAX_QUEUED_PER_ENTRY {
            return false;
        }
        line.waiting.push_back(tell);
        if line.waiting.len() == 1 && !line.is_running {
            self.ready.push_back(entry);
        }
        true
    }

    /// The next run; its entry is busy until [`Self::is_free`].
    fn next(&mut self) -> Option<Notification> {
        loop {
            let entry = self.ready.pop_front()?;
            if let Some(line) = self.lines.get_mut(&entry)
                && let Some(tell) = line.waiting.pop_front()
            {
                line.is_running = true;
                return Some(tell);
            }
        }
    }

    /// Marks an entry whose program has ended as free.
    fn is_free(&mut self, entry: EntryId) {
        let Some(line) = self.lines.get_mut(&entry) else {
            return;
        };
        line.is_running = false;
        if !line.waiting.is_empty() {
            self.ready.push_back(entry);
        }
    }

    /// Drops the queues of all entries but these.
    fn keep(&mut self, entries: &HashSet<EntryId>) {
        self.lines.retain(|entry, _| entries.contains(entry));
        self.ready.retain(|entry| entries.contains(entry));
    }

    fn waiting(&self) -> usize {
        self.lines.values().map(|line| line.waiting.len()).sum()
    }
}

/// What was dropped since that was last logged.
#[derive(Debug, Default)]
struct DroppedCounts {
    /// Events dropped because the event queue was full.
    events: u64,
    /// Runs dropped because their entry's queue was full.
    tells: u64,
    /// Programs that could not be run, and the last one's reason.
    unrun: u64,
    reason: String,
    logged: Option<Instant>,
}

impl DroppedCounts {
    fn take(&mut self, failure: Option<String>) {
        if let Some(reason) = failure {
            self.unrun += 1;
            self.reason = reason;
        }
    }

    const fn is_empty(&self) -> bool {
        self.events == 0 && self.tells == 0 && self.unrun == 0
    }

    fn next_log(&self) -> Option<Instant> {
        let logged = self.logged?;
        (!self.is_empty()).then(|| logged + DROP_LOG_INTERVAL)
    }

    fn log(&mut self, now: Instant) {
        if self.is_empty() || self.next_log().is_some_and(|next| next > now) {
            return;
        }
        if self.events > 0 || self.tells > 0 {
            tracing::warn!(
                events = self.events,
                runs = self.tells,
                "notify programs are too slow, not all is told"
            );
        }
        if self.unrun > 0 {
            tracing::error!(
                runs = self.unrun,
                "notify programs cannot be run, not all is told: {}",
                self.reason
            );
        }
        *self = Self {
            logged: Some(now),
            ..Self::default()
        };
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Runs one program to its end and logs its output and exit status. Returns why it did not run, if so.
async fn run(program: &Program, tell: &Notification, judge: ProgramCheck) -> Option<String> {
    let words = tell.notify.run.clone();
    let result = program.run(move |account| judge(&words, account)).await;
    let event = tell.event.event.event.name();
    let name = name(&tell.notify);
    let Finished {
        end, output, took, ..
    } = match result {
        Ok(finished) => finished,
        Err(error) => return Some(format!("run {name}: {error}")),
    };
    log_output(name, &output);
    if end == ExitReason::Exit(0) {
        tracing::debug!(program = name, event, ?took, "notify program done");
    } else {
        tracing::warn!(program = name, event, %end, "notify program failed");
    }
    None
}

fn name(notify: &Notify) -> &str {
    notify.run.first().map(String::as_str).unwrap_or_default()
}

fn log_output(program: &str, output: &Output) {
    let (lines, is_short) = printable(&output.bytes);
    for line in lines {
        tracing::info!(program, line, "notify program says");
    }
    if output.is_cut || is_short {
        tracing::info!(program, "notify program says more than is logged");
    }
}

/// The lines of an output that are logged, and whether it had more.
fn printable(output: &[u8]) -> (Vec<String>, bool) {
    let text = String::from_utf8_lossy(output);
    let mut is_short = false;
    let mut all = text.lines().filter(|line| !line.trim().is_empty());
    let lines = all
        .by_ref()
        .take(MAX_LINES)
        .map(|line| {
            let end = line.floor_char_boundary(MAX_LINE_BYTES);
            is_short |= end < line.len();
            line[..end].replace(char::is_control, " ")
        })
        .collect();
    is_short |= all.next().is_some();
    (lines, is_short)
}

#[cfg(test)]
mod tests;
