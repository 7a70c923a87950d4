//! The thread that hears of routes, links and neighbours, and raises the versions of what has changed at once.
//!
//! ```text
//!  kernel ──netlink──▶ watch thread ──versions──▶ ROUTE_VERSIONS, NEXT_HOPS
//!                        │     ├──────addresses──▶ HOST_ADDRESSES
//!                        │     └──────what changed──▶ news, taken by the owner at its next tend
//!                        └─ends─▶ the owner starts another, and meanwhile takes everything for changed now and then
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

use super::{host_addresses::HostAddresses, routes::Routes, supervision::Supervision};
use crate::netlink::{
    Netlink,
    monitor::{Monitor, NetlinkChanges},
};

/// What is listened to.
pub trait ChangeSource: Send {
    /// Waits for news, up to `milliseconds`.
    ///
    /// # Errors
    /// There will be none any more.
    fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges>;
}

impl ChangeSource for Monitor {
    fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges> {
        Self::wait(self, milliseconds)
    }
}

type OpenSource = Box<dyn FnMut() -> anyhow::Result<Box<dyn ChangeSource>> + Send>;
type OnChange = Arc<dyn Fn(&NetlinkChanges) -> anyhow::Result<()> + Send + Sync>;

/// The thread, and what is done without it.
pub struct WatchThread {
    shared: Arc<Shared>,
    /// Ends with an error, or when it is told to stop.
    thread: Option<JoinHandle<io::Result<()>>>,
    supervision: Supervision,
    open: OpenSource,
    /// Does at once what news ask for.
    react: OnChange,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// What the owner has not taken yet.
    news: Mutex<NetlinkChanges>,
}

impl WatchThread {
    /// Starts to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The socket or the thread could not be made.
    pub fn start(
        routes: Routes,
        host_addresses: HostAddresses,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let open = || Ok(Box::new(Monitor::open()?) as Box<dyn ChangeSource>);
        let react = move |news: &NetlinkChanges| {
            routes.bump_versions(&news.routes);
            for neighbour in &news.neighbours {
                routes.raise_neighbour(*neighbour);
            }
            if news.addresses {
                // At once: nobody may speak in a new address's name. The owner does it again, and tells what fails.
                host_addresses.refresh(&mut Netlink::open()?)?;
            }
            Ok(())
        };
        Self::with(Box::new(open), Arc::new(react), now)
    }

    fn with(open: OpenSource, react: OnChange, now: Instant) -> anyhow::Result<Self> {
        let mut watch = Self {
            shared: Arc::default(),
            thread: None,
            supervision: Supervision::begin(now),
            open,
            react,
        };
        watch.listen()?;
        Ok(watch)
    }

    /// Starts the thread. When this returns, no change is missed from now on.
    fn listen(&mut self) -> anyhow::Result<()> {
        let listener = (self.open)()?;
        let (shared, react) = (Arc::clone(&self.shared), Arc::clone(&self.react));
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || run(listener, &react, &shared))
            .context("cannot start the thread that watches routes")?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Starts the thread again when it has ended, in the network namespace of the caller, who calls this every second or so;
    /// what changed meanwhile is not known, so everything may have.
    pub fn supervise(&mut self, now: Instant) {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let reason = match thread.join() {
                Ok(Ok(())) => "its thread has ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("its thread panicked: {}", message(panic.as_ref())),
            };
            self.supervision.failed(reason, now);
        }
        let due = self.supervision.due(now);
        if due.listen {
            match self.listen() {
                Ok(()) => {
                    self.supervision.listens(now);
                    self.shared.take_in(NetlinkChanges::all(), &self.react);
                    return;
                }
                Err(error) => self.supervision.failed(format!("{error:#}"), now),
            }
        }
        if due.poll {
            self.shared.take_in(NetlinkChanges::all(), &self.react);
        }
    }

    /// Why nothing is heard at present; none while the thread runs.
    pub fn unwatched(&self) -> Option<&str> {
        self.supervision.reason()
    }

    /// What has changed since the last question.
    pub fn take_news(&self) -> NetlinkChanges {
        std::mem::take(&mut *self.shared.news())
    }
}

impl Shared {
    fn take_in(&self, news: NetlinkChanges, react: &OnChange) {
        if news.is_empty() {
            return;
        }
        if let Err(error) = react(&news) {
            tracing::error!("{error:#}");
        }
        // Afterwards: the owner follows what stands by then.
        self.news().add(news);
    }

    fn news(&self) -> MutexGuard<'_, NetlinkChanges> {
        // Whoever panicked has left whole news.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(mut listener: Box<dyn ChangeSource>, react: &OnChange, shared: &Shared) -> io::Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        // A timeout, so that a stop is noticed.
        shared.take_in(listener.wait(200)?, react);
    }
    Ok(())
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a word")
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
    use crate::netlink::{local::Prefix, monitor};

    /// What a listener meets next.
    enum Next {
        Route,
        Error(&'static str),
        Panic,
    }

    /// A route has changed.
    fn route() -> NetlinkChanges {
        let prefix = Prefix::of("10.0.0.0".parse().unwrap(), 8);
        NetlinkChanges {
            routes: monitor::Routes::To([prefix].into()),
            ..NetlinkChanges::default()
        }
    }

    /// A listener that meets what it is sent.
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

    /// A watch whose attempts to listen have these outcomes, and how often it reacted to news.
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

    /// Waits for a thing that another thread does.
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
        wait("a route is heard of", || {
            retired.load(Ordering::Relaxed) == 1
        });
        watch.supervise(at(0));
        wait("its news are told", || watch.take_news() == route());
        assert_eq!(watch.unwatched(), None);

        first.send(Next::Error("the socket failed")).unwrap();
        ended(&watch);
        let mut told = Vec::new();
        for second in 100..108 {
            watch.supervise(at(second));
            let news = watch.take_news();
            assert!(news == NetlinkChanges::all() || news.is_empty(), "{news:?}");
            let changed = !news.is_empty();
            told.push((second, watch.unwatched().map(str::to_owned), changed));
        }
        let down = |reason: &str| Some(reason.to_owned());
        assert_eq!(
            told,
            [
                (100, down("the socket failed"), true),
                (101, down("no memory"), false),
                (102, down("no memory"), true),
                // Heard of again, and what was missed counts as changed.
                (103, None, true),
                (104, None, false),
                (105, None, false),
                (106, None, false),
                (107, None, false),
            ]
        );
        assert_eq!(retired.load(Ordering::Relaxed), 4);

        second.send(Next::Route).unwrap();
        wait("a route is heard of", || {
            retired.load(Ordering::Relaxed) == 5
        });
        wait("its news are told", || watch.take_news() == route());

        second.send(Next::Panic).unwrap();
        ended(&watch);
        watch.supervise(at(200));
        assert_eq!(
            watch.unwatched(),
            Some("its thread panicked: a message that nobody foresaw")
        );
        watch.supervise(at(201));
        assert_eq!(watch.unwatched(), None);
        third.send(Next::Route).unwrap();
        // The end, the new beginning, the route.
        wait("a route is heard of", || {
            retired.load(Ordering::Relaxed) == 8
        });
    }
}
