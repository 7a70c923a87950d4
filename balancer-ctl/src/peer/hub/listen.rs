//! Where other nodes connect: listening, and the handshakes of those who come.

use std::{net::SocketAddr, time::Instant};

use tokio::net::{TcpListener, TcpStream};

use super::{ACCEPT_RETRY, Hub, LISTEN_RETRY, now};
use crate::{
    os::log_rate_limit::MAX_BY_STRANGERS,
    peer::{
        PeerSettings,
        connection::{self, Event},
        socket,
    },
};

impl Hub {
    pub(super) fn listen(&mut self, now: Instant) {
        self.is_changed = true;
        self.listen_at = None;
        let Some(address) = self.settings.listen else {
            return;
        };
        match socket::listen(address, self.settings.interface.as_deref()) {
            Ok(listener) => {
                self.listener = Some(listener);
                self.listen_obstacle = None;
            }
            Err(sentence) => {
                if self.listen_obstacle.is_none() {
                    tracing::warn!("{sentence}; trying again");
                }
                self.listen_obstacle = Some(sentence);
                self.listen_at = Some(now + LISTEN_RETRY);
            }
        }
    }

    pub(super) fn accepted(&mut self, accepted: std::io::Result<(TcpStream, SocketAddr)>) {
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if self.trouble_log.allows(MAX_BY_STRANGERS, now()) {
                    tracing::warn!(%error, "cannot accept another node's connection");
                }
                self.accept_at = Some(now() + ACCEPT_RETRY);
                return;
            }
        };
        let Some(key) = self.settings.key.clone() else {
            return;
        };
        let ip = source.ip().to_canonical();
        let is_known = self.nodes.iter().any(|node| node.is_at(ip));
        let admitted = self.admission.admit(ip, is_known);
        if let Some(evicted) = admitted.evicted
            && let Some(task) = self.handshakes.remove(&evicted)
        {
            task.abort();
            self.refusals.crowded += 1;
            self.is_changed = true;
        }
        let (handshake, events) = (admitted.id, self.events.0.clone());
        let task = tokio::spawn(async move {
            let result = connection::accept(stream, key).await;
            let event = Event::Accepted {
                handshake,
                source,
                result,
            };
            // The hub may have ended.
            let _ = events.send(event).await;
        });
        self.handshakes.insert(handshake, task.abort_handle());
    }
}

pub(super) fn listens(settings: &PeerSettings) -> bool {
    settings.key.is_some() && settings.listen.is_some()
}

pub(super) async fn accept(
    listener: Option<&TcpListener>,
) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
