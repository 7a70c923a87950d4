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

use super::{host_addresses::HostAddresses, ways::Ways};
use crate::netlink::{Netlink, monitor::Monitor};

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
    addresses: AtomicBool,
    ways: AtomicBool,
    routes: AtomicBool,
}

impl Watch {
    /// Starts to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The socket or the thread could not be made.
    pub fn start(ways: Ways, host_addresses: HostAddresses) -> anyhow::Result<Self> {
        // Opened here: when this returns, no change is missed.
        let mut monitor = Monitor::open()?;
        let mut netlink = Netlink::open()?;
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&mut monitor, &mut netlink, &ways, &host_addresses, &shared)
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

    /// Whether this host's addresses have changed since the last question.
    pub fn addresses_changed(&self) -> bool {
        self.shared.addresses.swap(false, Ordering::Relaxed)
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

fn run(
    monitor: &mut Monitor,
    netlink: &mut Netlink,
    ways: &Ways,
    host_addresses: &HostAddresses,
    shared: &Shared,
) {
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
        if news.addresses {
            // At once: nobody may speak in a new address's name. The owner does it again, and tells what fails.
            if let Err(error) = host_addresses.refresh(netlink) {
                tracing::warn!("{error:#}");
            }
            shared.addresses.store(true, Ordering::Relaxed);
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
