//! The thread that hears of routes, links and neighbours, and retires cached ways out at once.
//!
//! ```text
//!  kernel ──netlink──▶ watch thread ──generation──▶ INTERFACES
//!                            └──────links changed──▶ flag, taken by the owner at its next tend
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Context;

use super::ways::Ways;
use crate::netlink::monitor::Monitor;

/// The running thread.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    links: AtomicBool,
    ways: AtomicBool,
    routes: AtomicBool,
}

impl Watch {
    /// Starts to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The socket or the thread could not be made.
    pub fn start(ways: Ways) -> anyhow::Result<Self> {
        // Opened here: when this returns, no change is missed.
        let mut monitor = Monitor::open()?;
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&mut monitor, &ways, &shared)
            })
            .context("cannot start the thread that watches routes")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Whether interfaces have changed since the last question.
    pub fn links_changed(&self) -> bool {
        self.shared.links.swap(false, Ordering::Relaxed)
    }

    /// Whether any route, or a link that one leads over, has changed since the last question.
    pub fn routes_changed(&self) -> bool {
        self.shared.routes.swap(false, Ordering::Relaxed)
    }

    /// Whether any way has changed since the last question.
    pub fn ways_changed(&self) -> bool {
        self.shared.ways.swap(false, Ordering::Relaxed)
    }
}

fn run(monitor: &mut Monitor, ways: &Ways, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        // A timeout, so that a stop is noticed.
        let news = match monitor.wait(200) {
            Ok(news) => news,
            Err(error) => {
                tracing::error!(%error, "network changes are not heard of any more: restart balancerd");
                return;
            }
        };
        if news.links {
            shared.links.store(true, Ordering::Relaxed);
        }
        if news.routes {
            shared.routes.store(true, Ordering::Relaxed);
        }
        if news.ways {
            shared.ways.store(true, Ordering::Relaxed);
            if let Err(error) = ways.raise() {
                tracing::error!(%error, "cached ways out cannot be retired");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; nothing depends on it.
            let _ = thread.join();
        }
    }
}
