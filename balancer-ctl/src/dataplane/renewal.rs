//! Clients that have a connection keep their servers for as long as that lasts: the packet program notes a use when a connection opens, the
//! daemon, by test runs of the program `renew`, that it is still there.

use std::collections::HashMap;

use anyhow::Context;
use aya::{TestRun, TestRunOptions, programs::Xdp};
use balancer_common::{
    conntrack::idle,
    persistence::{MAX_RUNNING_CLIENTS, RunningClient, Stickiness},
};

/// Within its timeout each client is renewed about so often, as far as sweeps are.
const RENEWALS_PER_TIMEOUT: u32 = 8;

/// Whether the clients of a service are to be renewed by a sweep that begins now, which is noted in `renewals`: when that was done last, by
/// service id. All times are in jiffies.
pub fn is_due(renewals: &mut HashMap<u32, u32>, service: u32, row: &Stickiness, now: u32) -> bool {
    let last = renewals.get(&service);
    let is_due = last.is_none_or(|last| idle(now, *last) >= row.timeout / RENEWALS_PER_TIMEOUT);
    if is_due {
        renewals.insert(service, now);
    }
    is_due
}

/// Renews the entries of clients that have a running connection, by `program`, which is `renew`.
///
/// # Errors
/// The kernel refused a test run.
pub fn renew(program: &Xdp, clients: &[RunningClient]) -> anyhow::Result<()> {
    for clients in clients.chunks(MAX_RUNNING_CLIENTS) {
        // SAFETY: plain data without gaps, and as many bytes as it has.
        let frame = unsafe {
            std::slice::from_raw_parts(clients.as_ptr().cast::<u8>(), size_of_val(clients))
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        program
            .test_run(options)
            .context("cannot renew what clients with a connection keep, by a test run")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_of_a_service_are_renewed_eight_times_within_its_timeout() {
        let row = Stickiness {
            timeout: 800,
            ..Stickiness::default()
        };
        let mut renewals = HashMap::new();
        let start = u32::MAX - 150;
        let due: Vec<_> = (0..10)
            .map(|step| start.wrapping_add(40 * step))
            .map(|now| is_due(&mut renewals, 7, &row, now))
            .collect();
        let expected = [
            true, false, false, true, false, false, true, false, false, true,
        ];
        assert_eq!(due, expected);
        assert!(is_due(&mut renewals, 8, &row, start), "another one");
    }
}
