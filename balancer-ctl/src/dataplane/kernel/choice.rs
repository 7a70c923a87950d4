//! Which real server a client would get: the packet program's answer in the model's terms.

use std::net::SocketAddr;

use anyhow::Context;
use balancer_common::{trace::offer, verdict::Discard};

use super::KernelDataplane;
use crate::{
    dataplane::{Choice, FoundBy, Traced, load, plan::tables::address_of, trace},
    model::ServiceKey,
};

impl KernelDataplane {
    /// What the packet program would do with the first packet of a client.
    ///
    /// # Errors
    /// The kernel refused the test run.
    pub(super) fn choice_for(
        &mut self,
        client: SocketAddr,
        service: &ServiceKey,
    ) -> anyhow::Result<Traced> {
        let answer = trace::ask(load::provide(&mut self.ebpf, "trace")?, client, service)?;
        let rule = self.services.rule(service, answer.rule)?;
        let discard = Discard::ALL.get(answer.reason as usize);
        if let Some(reason) = discard {
            let choice = Choice::None(*reason);
            return Ok(Traced {
                choice,
                rule,
                is_full_nat: false,
            });
        }
        let tables = self.services.tables()?;
        let real = tables.reals.get(answer.real as usize);
        let real = real.context("the packet program named a real server that does not exist")?;
        let mut address = address_of(real);
        if address.port() == 0 {
            address.set_port(service.address.port());
        }
        let ring = tables.services.get(service).map(|row| row.service.ring);
        let ring = ring.unwrap_or_default();
        let found = match answer.offer {
            _ if answer.has_connection != 0 => FoundBy::Connection,
            offer::KEPT => FoundBy::Persistence {
                is_pending: answer.is_pending != 0,
            },
            offer::SCHEDULER => FoundBy::Scheduler {
                slot: answer.slot.saturating_sub(ring.offset),
                of: ring.length,
            },
            _ => FoundBy::LeastLoad,
        };
        let choice = Choice::Real(address, found);
        Ok(Traced {
            choice,
            rule,
            is_full_nat: answer.is_full_nat != 0,
        })
    }
}
