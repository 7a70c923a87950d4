//! What happens to the Active node, at which advertisement interval, and what is measured of it.

use std::time::Duration;

use super::{
    super::report::Aim,
    record::{Around, What},
};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All processes of the Active node are killed, and its port at the switch goes down.
    NodeDeath,
    /// The Active node gives up on purpose.
    OnPurpose,
    /// The daemon of the Active node is killed.
    DaemonKilled,
    /// After the nodes have not heard each other, they do again.
    Heal,
}

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What happens.
    pub event: Event,
    /// The advertisement interval.
    pub interval: Duration,
}

/// A figure of a case, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// From the event until the other node announces the VIP for the first time.
    Announced,
    /// How long neither node has the VIP.
    WithoutAddress,
    /// From the event until the other node has the VIP.
    TakenOver,
    /// From the event until the node whose daemon was killed has the VIP no longer.
    Removed,
    /// How long both nodes claim to be Active after the event.
    BothClaim,
    /// The longest time without an answer to the probe.
    Gap,
}

const fn case(event: Event, milliseconds: u64) -> Case {
    Case {
        event,
        interval: Duration::from_millis(milliseconds),
    }
}

impl Case {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 8] = [
        case(Event::NodeDeath, 1000),
        case(Event::NodeDeath, 100),
        case(Event::NodeDeath, 10),
        case(Event::OnPurpose, 1000),
        case(Event::OnPurpose, 100),
        case(Event::OnPurpose, 10),
        case(Event::DaemonKilled, 100),
        case(Event::Heal, 100),
    ];

    /// Its name, which is that of its first row.
    pub fn name(self) -> String {
        let event = match self.event {
            Event::NodeDeath => "node-death",
            Event::OnPurpose => "on-purpose",
            Event::DaemonKilled => "daemon-killed",
            Event::Heal => "heal",
        };
        match self.interval.as_millis() {
            1000 => format!("{event}-1s"),
            milliseconds => format!("{event}-{milliseconds}ms"),
        }
    }

    /// What is measured, the most important first.
    pub const fn figures(self) -> &'static [Figure] {
        match self.event {
            Event::NodeDeath => &[Figure::Announced, Figure::Gap],
            Event::OnPurpose => &[Figure::WithoutAddress, Figure::Gap],
            Event::DaemonKilled => &[Figure::TakenOver, Figure::Removed, Figure::Gap],
            Event::Heal => &[Figure::BothClaim],
        }
    }

    /// Name of a figure's row.
    pub fn row(self, figure: Figure) -> String {
        let suffix = match figure {
            Figure::Removed => "-removed",
            Figure::Gap => "-gap",
            Figure::Announced | Figure::WithoutAddress | Figure::TakenOver | Figure::BothClaim => {
                ""
            }
        };
        format!("{}{suffix}", self.name())
    }

    /// What this project's figure may be at most in milliseconds, in any round. A node's death has none: RFC 9568 says how long the
    /// other waits.
    pub fn aim(self, figure: Figure) -> Option<Aim> {
        let intervals = |number: f64| Some(Aim::AtMost(number * 1e3 * self.interval.as_secs_f64()));
        match figure {
            Figure::WithoutAddress => Some(Aim::AtMost(5.0)),
            Figure::TakenOver | Figure::Removed => intervals(3.0),
            Figure::BothClaim => intervals(1.0),
            Figure::Announced | Figure::Gap => None,
        }
    }

    /// A figure in milliseconds; infinite = it did not end while it was watched, NaN = it cannot be told.
    pub fn measure(self, figure: Figure, around: &Around<'_>) -> f64 {
        let time = match figure {
            Figure::Announced => around.first(1, What::Announcement),
            Figure::WithoutAddress => around.without_address(),
            Figure::TakenOver => around.first(1, What::Set),
            Figure::Removed => around.first(0, What::Removed),
            Figure::BothClaim => around.both_claim(3 * self.interval),
            Figure::Gap => around.gap(),
        };
        time.map_or(f64::INFINITY, |time| 1e3 * time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_name() {
        assert_eq!(
            Case::ALL.map(Case::name),
            [
                "node-death-1s",
                "node-death-100ms",
                "node-death-10ms",
                "on-purpose-1s",
                "on-purpose-100ms",
                "on-purpose-10ms",
                "daemon-killed-100ms",
                "heal-100ms",
            ]
        );
    }

    #[test]
    fn aims_are_in_milliseconds() {
        let killed = case(Event::DaemonKilled, 100);
        assert_eq!(killed.aim(Figure::Removed), Some(Aim::AtMost(300.0)));
        let heal = case(Event::Heal, 100);
        assert_eq!(heal.aim(Figure::BothClaim), Some(Aim::AtMost(100.0)));
        assert_eq!(killed.aim(Figure::Gap), None);
    }

    #[test]
    fn what_does_not_end_lasts_for_ever() {
        let nothing = Around {
            seen: &[],
            event: Duration::ZERO,
        };
        let killed = case(Event::DaemonKilled, 100);
        for figure in [Figure::Removed, Figure::TakenOver, Figure::Gap] {
            assert!(killed.measure(figure, &nothing).is_infinite(), "{figure:?}");
        }
    }
}
