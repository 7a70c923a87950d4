//! The watch thread: it gets the kernel's notifications about routes, links and neighbours, and bumps the versions of
//! what has changed at once.
//!
//! ```text
//!  kernel ──netlink──▶ watch thread ──versions──▶ ROUTE_VERSIONS, NEXT_HOPS
//!                        │     ├──────addresses──▶ HOST_ADDRESSES
//!                        │     └──────what changed──▶ pending, taken by the owner in its next run_maintenance
//!                        └─ends─▶ the owner restarts it, and until then treats everything as changed every 2 s
//! ```

use std::{
    any::Any,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context;

use super::{
    host_addresses::HostAddresses, route_versions::RouteVersionTable,
    watch_supervision::WatchSupervision,
};
use crate::netlink::{
    Netlink,
    monitor::{Monitor, NetlinkChanges},
};

/// A source of notifications about changes; tests have their own.
pub trait ChangeSource: Send {
    /// Waits up to `milliseconds` for changes, and returns those that arrived.
    ///
    /// # Errors
    /// The source has failed and will report no further changes.
    fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges>;
}

impl ChangeSource for Monitor {
    fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges> {
        Self::wait(self, milliseconds)
    }
}

type OpenSource = Box<dyn FnMut() -> anyhow::Result<Box<dyn ChangeSource>> + Send>;
type OnChange = Arc<dyn Fn(&NetlinkChanges) -> anyhow::Result<()> + Send + Sync>;

/// The watch thread, and what its owner does while it does not run.
pub struct WatchThread {
    shared: Arc<Shared>,
    /// Ends with an error, or when `stop` is set.
    thread: Option<JoinHandle<io::Result<()>>>,
    supervision: WatchSupervision,
    open_source: OpenSource,
    /// Called in the thread for each batch of changes.
    on_change: OnChange,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Changes that the owner has not taken yet.
    pending: Mutex<NetlinkChanges>,
}

impl WatchThread {
    /// Starts the thread, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The socket or the thread could not be created.
    pub fn start(
        routes: RouteVersionTable,
        host_addresses: HostAddresses,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let open = || Ok(Box::new(Monitor::open()?) as Box<dyn ChangeSource>);
        let on_change = move |changes: &NetlinkChanges| {
            routes.bump_versions(&changes.routes);
            for neighbour in &changes.neighbours {
                routes.bump_neighbour(*neighbour);
            }
            if changes.addresses {
                // At once, so that no packet from outside can use a new address of this host as its source. The owner
                // does it again, and reports failures.
                host_addresses.refresh(&mut Netlink::open()?)?;
            }
            Ok(())
        };
        Self::with(Box::new(open), Arc::new(on_change), now)
    }

    fn with(open_source: OpenSource, on_change: OnChange, now: Instant) -> anyhow::Result<Self> {
        let mut watch = Self {
            shared: Arc::default(),
            thread: None,
            supervision: WatchSupervision::started(now),
            open_source,
            on_change,
        };
        watch.start_thread()?;
        Ok(watch)
    }

    /// Starts the thread. No change after this call returns is missed.
    fn start_thread(&mut self) -> anyhow::Result<()> {
        let source = (self.open_source)()?;
        let (shared, on_change) = (Arc::clone(&self.shared), Arc::clone(&self.on_change));
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || run(source, &on_change, &shared))
            .context("cannot start the thread that watches routes")?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Restarts the thread when it has ended, in the network namespace of the caller, who calls this about once a
    /// second. Since changes were missed meanwhile, everything then counts as changed.
    pub fn supervise(&mut self, now: Instant) {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let reason = match thread.join() {
                Ok(Ok(())) => "its thread has ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("its thread panicked: {}", panic_message(panic.as_ref())),
            };
            self.supervision.record_failure(reason, now);
        }
        let due = self.supervision.take_due(now);
        if due.restart {
            match self.start_thread() {
                Ok(()) => {
                    self.supervision.record_restart(now);
                    self.shared.publish(NetlinkChanges::all(), &self.on_change);
                    return;
                }
                Err(error) => self.supervision.record_failure(format!("{error:#}"), now),
            }
        }
        if due.poll {
            self.shared.publish(NetlinkChanges::all(), &self.on_change);
        }
    }

    /// Why the thread does not run; `None` while it does.
    pub fn failure(&self) -> Option<&str> {
        self.supervision.failure()
    }

    /// Returns what has changed since the last call.
    pub fn take_changes(&self) -> NetlinkChanges {
        std::mem::take(&mut *self.shared.lock_pending())
    }
}

impl Shared {
    fn publish(&self, changes: NetlinkChanges, on_change: &OnChange) {
        if changes.is_empty() {
            return;
        }
        if let Err(error) = on_change(&changes) {
            tracing::error!("{error:#}");
        }
        // After the reaction: the owner then acts on the state as it is by now.
        self.lock_pending().add(changes);
    }

    fn lock_pending(&self) -> MutexGuard<'_, NetlinkChanges> {
        // Changes are added as a whole, so a panic leaves them consistent.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(mut source: Box<dyn ChangeSource>, on_change: &OnChange, shared: &Shared) -> io::Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        // A timeout, so that a stop is noticed.
        shared.publish(source.wait(200)?, on_change);
    }
    Ok(())
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

impl fmt::Debug for WatchThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("shared", &self.shared)
            .field("supervision", &self.supervision)
            .finish_non_exhaustive()
    }
}

impl Drop for WatchThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; nothing depends on it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{
            atomic::AtomicU32,
            mpsc::{Receiver, Sender, channel},
        },
        time::Duration,
    };

    use super::*;
    use crate::{model::prefix::Prefix, netlink::monitor};

    /// What a source reports next.
    enum Next {
        Route,
        Error(&'static str),
        Panic,
    }

    /// A route has changed.
    fn route() -> NetlinkChanges {
        let prefix = Prefix::of("10.0.0.0".parse().unwrap(), 8);
        NetlinkChanges {
            routes: monitor::RouteChanges::To([prefix].into()),
            ..NetlinkChanges::default()
        }
    }

    /// A source that reports what the test sends.
    struct Script(Receiver<Next>);

    impl ChangeSource for Script {
        fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges> {
            match self
                .0
                .recv_timeout(Duration::from_millis(milliseconds.into()))
            {
                Ok(Next::Route) => Ok(route()),
                Ok(Next::Error(error)) => Err(io::Error::other(error)),
                Ok(Next::Panic) => panic!("a message that nobody foresaw"),
                Err(_) => Ok(NetlinkChanges::default()),
            }
        }
    }

    /// A watch thread whose attempts to start have these outcomes, and the number of reactions to changes.
    fn watch(
        outcomes: impl IntoIterator<Item = Result<Receiver<Next>, &'static str>>,
        now: Instant,
    ) -> (WatchThread, Arc<AtomicU32>) {
        let mut outcomes: VecDeque<_> = outcomes.into_iter().collect();
        let retired = Arc::new(AtomicU32::new(0));
        let open = move || match outcomes.pop_front().unwrap() {
            Ok(receiver) => Ok(Box::new(Script(receiver)) as Box<dyn ChangeSource>),
            Err(error) => Err(anyhow::anyhow!(error)),
        };
        let retire = {
            let retired = Arc::clone(&retired);
            move |_: &NetlinkChanges| {
                retired.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        let watch = WatchThread::with(Box::new(open), Arc::new(retire), now).unwrap();
        (watch, retired)
    }

    fn channels<const N: usize>() -> ([Sender<Next>; N], [Option<Receiver<Next>>; N]) {
        let mut receivers = [const { None }; N];
        let senders = std::array::from_fn(|index| {
            let (sender, receiver) = channel();
            receivers[index] = Some(receiver);
            sender
        });
        (senders, receivers)
    }

    /// Waits until `holds`, for at most 10 s.
    fn wait(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_thread_that_ends_is_started_again_and_everything_counts_as_changed_meanwhile() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ([first, second, third], [a, b, c]) = channels();
        let outcomes = [
            Ok(a.unwrap()),
            Err("no memory"),
            Ok(b.unwrap()),
            Ok(c.unwrap()),
        ];
        let (mut watch, retired) = watch(outcomes, start);
        let ended = |watch: &WatchThread| {
            wait("the thread ends", || {
                watch.thread.as_ref().is_none_or(JoinHandle::is_finished)
            });
        };

        first.send(Next::Route).unwrap();
        wait("a route change is reported", || {
            retired.load(Ordering::Relaxed) == 1
        });
        watch.supervise(at(0));
        wait("its changes are passed on", || {
            watch.take_changes() == route()
        });
        assert_eq!(watch.failure(), None);

        first.send(Next::Error("the socket failed")).unwrap();
        ended(&watch);
        let mut reported = Vec::new();
        for second in 100..108 {
            watch.supervise(at(second));
            let changes = watch.take_changes();
            assert!(
                changes == NetlinkChanges::all() || changes.is_empty(),
                "{changes:?}"
            );
            let changed = !changes.is_empty();
            reported.push((second, watch.failure().map(str::to_owned), changed));
        }
        let down = |reason: &str| Some(reason.to_owned());
        assert_eq!(
            reported,
            [
                (100, down("the socket failed"), true),
                (101, down("no memory"), false),
                (102, down("no memory"), true),
                // Restarted, and what was missed counts as changed.
                (103, None, true),
                (104, None, false),
                (105, None, false),
                (106, None, false),
                (107, None, false),
            ]
        );
        assert_eq!(retired.load(Ordering::Relaxed), 4);

        second.send(Next::Route).unwrap();
        wait("a route change is reported", || {
            retired.load(Ordering::Relaxed) == 5
        });
        wait("its changes are passed on", || {
            watch.take_changes() == route()
        });

        second.send(Next::Panic).unwrap();
        ended(&watch);
        watch.supervise(at(200));
        assert_eq!(
            watch.failure(),
            Some("its thread panicked: a message that nobody foresaw")
        );
        watch.supervise(at(201));
        assert_eq!(watch.failure(), None);
        third.send(Next::Route).unwrap();
        // The thread's end, its restart, the route.
        wait("a route change is reported", || {
            retired.load(Ordering::Relaxed) == 8
        });
    }
}
