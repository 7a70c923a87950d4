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
        printable::is_printable,
        program::{Account, ExitReason, Finished, Output, Program, trusted_for_notify},
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
    Peers(Vec<String>),
    Event(EventRecord),
    Assume(EventRecord, Instant, Instant),
}

/// Counters that the handle and the thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Whether any program is configured.
    is_wanted: AtomicBool,
    /// Events in the queue.
    queued: AtomicUsize,
    /// Events that were dropped because the queue was full.
    dropped: AtomicU64,
}

/// Checks that a program may be run with its arguments; returns why not.
type ProgramCheck = fn(&[String], &Account) -> Result<(), String>;

impl Notifier {
    /// Starts the thread. `state` is the daemon's state directory, whose path programs are given.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(state: &Path) -> io::Result<Self> {
        Self::start_with(state, trusted_for_notify)
    }

    /// Starts the thread, with `check_program` as the check right before each start of a program.
    fn start_with(state: &Path, check_program: ProgramCheck) -> io::Result<Self> {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (end, done) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut task = Task::new(inbox, Arc::clone(&shared), state.to_owned(), check_program);
        thread::Builder::new()
            .name("notify".to_owned())
            .spawn(move || {
                runtime.block_on(task.run());
                // The receiver may have been dropped.
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

    /// Takes over the names of all other nodes.
    pub fn retain_peers(&self, names: Vec<String>) {
        if self.shared.is_wanted.load(Ordering::Relaxed) {
            self.send(Message::Peers(names));
        }
    }

    /// Queues an event for the policy; drops it if the queue is full.
    pub fn handle(&self, event: EventRecord) {
        self.send_event(event, Message::Event);
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
        // The thread ends by itself well before, unless the system is overloaded.
        let _ = timeout(longest, self.done).await;
    }

    fn send_event(&self, event: EventRecord, message: impl FnOnce(EventRecord) -> Message) {
        if !self.shared.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        if self.shared.queued.fetch_add(1, Ordering::Relaxed) >= MAX_QUEUED_EVENTS {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.send(message(event));
    }

    fn send(&self, message: Message) {
        // Without the thread no program can be run; its end was logged.
        let _ = self.messages.send(message);
    }
}

/// The thread's state.
struct Task {
    inbox: mpsc::UnboundedReceiver<Message>,
    shared: Arc<Shared>,
    state: PathBuf,
    check_program: ProgramCheck,
    node: String,
    policy: Policy,
    queues: Queues,
    /// Running programs; each returns why its program did not run, if so.
    running: JoinSet<Option<String>>,
    /// The entry of each running program's task.
    runs: HashMap<task::Id, EntryId>,
    dropped: DroppedCounts,
}

impl Task {
    fn new(
        inbox: mpsc::UnboundedReceiver<Message>,
        shared: Arc<Shared>,
        state: PathBuf,
        check_program: ProgramCheck,
    ) -> Self {
        Self {
            inbox,
            shared,
            state,
            check_program,
            node: String::new(),
            policy: Policy::default(),
            queues: Queues::default(),
            running: JoinSet::new(),
            runs: HashMap::new(),
            dropped: DroppedCounts::default(),
        }
    }

    async fn run(&mut self) {
        loop {
            let deadline = earlier(self.policy.next_deadline(), self.dropped.next_log());
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = until(deadline) => {
                    let notifications = self.policy.expire(Instant::now());
                    self.queue(notifications);
                }
            }
            self.dropped.events += self.shared.dropped.swap(0, Ordering::Relaxed);
            self.dropped.log(Instant::now());
            self.start_programs();
        }
        self.drain().await;
    }

    fn handle(&mut self, message: Message) {
        let now = Instant::now();
        match message {
            Message::Configure(model) => {
                let notifications = self.policy.configure(&model, &clock::now_utc());
                self.queue(notifications);
                self.queues.retain(&self.policy.entries().collect());
                self.node = model.node;
            }
            Message::Peers(names) => {
                let notifications = self.policy.retain_peers(&names, &clock::now_utc());
                self.queue(notifications);
            }
            Message::Event(event) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                let notifications = self.policy.handle(&event, now);
                self.queue(notifications);
            }
            Message::Assume(event, began, until) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                self.policy.assume(&event, began, until);
            }
        }
    }

    fn queue(&mut self, notifications: Vec<Notification>) {
        for notification in notifications {
            if !self.queues.push(notification) {
                self.dropped.runs += 1;
            }
        }
    }

    fn start_programs(&mut self) {
        while self.running.len() < MAX_RUNNING
            && let Some(notification) = self.queues.next()
        {
            let sender = Sender {
                node: &self.node,
                state: &self.state,
            };
            let program = invocation(&notification.event, &notification.notify, sender);
            let entry = notification.entry;
            let check_program = self.check_program;
            let run = async move { run(&program, &notification, check_program).await };
            self.runs.insert(self.running.spawn(run).id(), entry);
        }
    }

    fn ended(&mut self, ended: Result<(task::Id, Option<String>), task::JoinError>) {
        let id = match ended {
            Ok((id, failure)) => {
                self.dropped.add_failure(failure);
                id
            }
            Err(error) => {
                tracing::error!(%error, "a notify program's task failed");
                error.id()
            }
        };
        if let Some(entry) = self.runs.remove(&id) {
            self.queues.mark_free(entry);
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
            waiting = self.queues.waiting(),
            "the daemon stops: notify programs that still run are killed, and queued runs are dropped"
        );
        self.running.shutdown().await;
        sleep(REAP_TIMEOUT).await;
    }
}

/// The queues of runs, one for each entry.
#[derive(Debug, Default)]
struct Queues {
    by_entry: HashMap<EntryId, Queue>,
    /// Entries with queued runs whose program is not running, in the order in which they start.
    ready: VecDeque<EntryId>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Notification>,
    is_running: bool,
}

impl Queues {
    /// Queues a run; `false` = the queue is full.
    fn push(&mut self, notification: Notification) -> bool {
        let entry = notification.entry;
        let queue = self.by_entry.entry(entry).or_default();
        if queue.waiting.len() >= MAX_QUEUED_PER_ENTRY {
            return false;
        }
        queue.waiting.push_back(notification);
        if queue.waiting.len() == 1 && !queue.is_running {
            self.ready.push_back(entry);
        }
        true
    }

    /// The next run; its entry is busy until [`Self::mark_free`].
    fn next(&mut self) -> Option<Notification> {
        loop {
            let entry = self.ready.pop_front()?;
            if let Some(queue) = self.by_entry.get_mut(&entry)
                && let Some(notification) = queue.waiting.pop_front()
            {
                queue.is_running = true;
                return Some(notification);
            }
        }
    }

    /// Marks an entry whose program has ended as free.
    fn mark_free(&mut self, entry: EntryId) {
        let Some(queue) = self.by_entry.get_mut(&entry) else {
            return;
        };
        queue.is_running = false;
        if !queue.waiting.is_empty() {
            self.ready.push_back(entry);
        }
    }

    /// Keeps the queues of these entries and drops all others.
    fn retain(&mut self, entries: &HashSet<EntryId>) {
        self.by_entry.retain(|entry, _| entries.contains(entry));
        self.ready.retain(|entry| entries.contains(entry));
    }

    fn waiting(&self) -> usize {
        self.by_entry
            .values()
            .map(|queue| queue.waiting.len())
            .sum()
    }
}

/// What was dropped since the last log line about it.
#[derive(Debug, Default)]
struct DroppedCounts {
    /// Events dropped because the event queue was full.
    events: u64,
    /// Runs dropped because their entry's queue was full.
    runs: u64,
    /// Programs that could not be started, and why the last one could not.
    failed_starts: u64,
    reason: String,
    last_logged: Option<Instant>,
}

impl DroppedCounts {
    fn add_failure(&mut self, failure: Option<String>) {
        if let Some(reason) = failure {
            self.failed_starts += 1;
            self.reason = reason;
        }
    }

    const fn is_empty(&self) -> bool {
        self.events == 0 && self.runs == 0 && self.failed_starts == 0
    }

    fn next_log(&self) -> Option<Instant> {
        let logged = self.last_logged?;
        (!self.is_empty()).then(|| logged + DROP_LOG_INTERVAL)
    }

    fn log(&mut self, now: Instant) {
        if self.is_empty() || self.next_log().is_some_and(|next| next > now) {
            return;
        }
        if self.events > 0 || self.runs > 0 {
            tracing::warn!(
                events = self.events,
                runs = self.runs,
                "notify programs are too slow: events or runs were dropped"
            );
        }
        if self.failed_starts > 0 {
            tracing::error!(
                runs = self.failed_starts,
                "notify programs could not be run: {}",
                self.reason
            );
        }
        *self = Self {
            last_logged: Some(now),
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
async fn run(
    program: &Program,
    notification: &Notification,
    check_program: ProgramCheck,
) -> Option<String> {
    let words = notification.notify.run.clone();
    let result = program
        .run(move |account| check_program(&words, account))
        .await;
    let event = notification.event.record.event.name();
    let name = name(&notification.notify);
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
    let (lines, is_cut) = printable(&output.bytes);
    for line in lines {
        tracing::info!(program, line, "notify program says");
    }
    if output.is_cut || is_cut {
        tracing::info!(program, "notify program says more than is logged");
    }
}

/// The lines of an output that are logged, and whether some of it is left out.
fn printable(output: &[u8]) -> (Vec<String>, bool) {
    let text = String::from_utf8_lossy(output);
    let mut is_cut = false;
    let mut all = text.lines().filter(|line| !line.trim().is_empty());
    let lines = all
        .by_ref()
        .take(MAX_LINES)
        .map(|line| {
            let end = line.floor_char_boundary(MAX_LINE_BYTES);
            is_cut |= end < line.len();
            line[..end].replace(|c| !is_printable(c), " ")
        })
        .collect();
    is_cut |= all.next().is_some();
    (lines, is_cut)
}

#[cfg(test)]
mod tests;
