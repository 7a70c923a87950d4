//! The kinds of events that the log, the event stream and `[[notify]]` report.

use serde::{Deserialize, Serialize};
use tracing::Level;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A service was added.
    ServiceAdded,
    /// A service was changed.
    ServiceChanged,
    /// A service was removed.
    ServiceRemoved,
    /// A real server was added.
    RealAdded,
    /// A real server was changed.
    RealChanged,
    /// A real server was removed.
    RealRemoved,
    /// A virtual router was added.
    VirtualRouterAdded,
    /// A virtual router was changed.
    VirtualRouterChanged,
    /// A virtual router was removed.
    VirtualRouterRemoved,
    /// A virtual router became Active: this node has its VIPs.
    Active,
    /// A virtual router became Backup: another node has its VIPs.
    Backup,
    /// A virtual router is in fault: this node cannot have its VIPs.
    Fault,
    /// Another node does not answer any more.
    NodeDown,
    /// Another node answers.
    NodeUp,
    /// The configuration file was loaded again.
    Reloaded,
    /// The configuration file could not be loaded again; what ran goes on.
    ReloadFailed,
    /// A real server went down.
    RealDown,
    /// A real server came up.
    RealUp,
    /// A service's live weight fell below its quorum.
    QuorumLost,
    /// A service's live weight meets its quorum again.
    QuorumRegained,
    /// Backups of a service stepped in, or other backups than before.
    BackupsIn,
    /// The backups of a service stepped out.
    BackupsOut,
    /// New connections find no room in the connection table.
    TableFull,
    /// The connection table has room again.
    TableRecovered,
    /// The loop that runs the checkers does not run.
    ChecksStalled,
    /// The checkers run again.
    ChecksResumed,
    /// The packet program does not run the services as model and health require.
    DataplaneOutOfSync,
    /// The packet program runs them again.
    DataplaneInSync,
    /// The data plane's periodic work failed.
    MaintenanceFailed,
    /// The periodic work succeeds again.
    MaintenanceRecovered,
    /// The thread that watches route changes does not run, so that they take effect some seconds late.
    RoutesUnwatched,
    /// Route changes are watched again.
    RoutesWatched,
    /// The configuration file is not the one that was loaded.
    FileOutOfSync,
    /// The configuration file is the one that was loaded.
    FileInSync,
    /// Older events than those that follow are no longer remembered.
    Forgotten,
    /// The reader was too slow and events were lost; the stream ends.
    Lost,
    /// The daemon stops; forwarding goes on.
    Stopping,
}

impl EventKind {
    /// Its name in files, in JSON and in lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceAdded => "service-added",
            Self::ServiceChanged => "service-changed",
            Self::ServiceRemoved => "service-removed",
            Self::RealAdded => "real-added",
            Self::RealChanged => "real-changed",
            Self::RealRemoved => "real-removed",
            Self::VirtualRouterAdded => "virtual-router-added",
            Self::VirtualRouterChanged => "virtual-router-changed",
            Self::VirtualRouterRemoved => "virtual-router-removed",
            Self::Active => "active",
            Self::Backup => "backup",
            Self::Fault => "fault",
            Self::NodeDown => "node-down",
            Self::NodeUp => "node-up",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload-failed",
            Self::RealDown => "real-down",
            Self::RealUp => "real-up",
            Self::QuorumLost => "quorum-lost",
            Self::QuorumRegained => "quorum-regained",
            Self::BackupsIn => "backups-in",
            Self::BackupsOut => "backups-out",
            Self::TableFull => "table-full",
            Self::TableRecovered => "table-recovered",
            Self::ChecksStalled => "checks-stalled",
            Self::ChecksResumed => "checks-resumed",
            Self::DataplaneOutOfSync => "dataplane-out-of-sync",
            Self::DataplaneInSync => "dataplane-in-sync",
            Self::MaintenanceFailed => "maintenance-failed",
            Self::MaintenanceRecovered => "maintenance-recovered",
            Self::RoutesUnwatched => "routes-unwatched",
            Self::RoutesWatched => "routes-watched",
            Self::FileOutOfSync => "file-out-of-sync",
            Self::FileInSync => "file-in-sync",
            Self::Forgotten => "forgotten",
            Self::Lost => "lost",
            Self::Stopping => "stopping",
        }
    }

    /// Whether it is the last one of a stream.
    #[must_use]
    pub const fn ends_stream(self) -> bool {
        matches!(self, Self::Lost | Self::Stopping)
    }

    /// The level at which it is logged.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::ReloadFailed
            | Self::QuorumLost
            | Self::ChecksStalled
            | Self::DataplaneOutOfSync
            | Self::MaintenanceFailed => Level::ERROR,
            Self::RealDown
            | Self::BackupsIn
            | Self::TableFull
            | Self::RoutesUnwatched
            | Self::FileOutOfSync
            | Self::Fault
            | Self::NodeDown
            | Self::Lost => Level::WARN,
            Self::ServiceAdded
            | Self::ServiceChanged
            | Self::ServiceRemoved
            | Self::RealAdded
            | Self::RealChanged
            | Self::RealRemoved
            | Self::VirtualRouterAdded
            | Self::VirtualRouterChanged
            | Self::VirtualRouterRemoved
            | Self::Active
            | Self::Backup
            | Self::NodeUp
            | Self::Reloaded
            | Self::RealUp
            | Self::QuorumRegained
            | Self::BackupsOut
            | Self::TableRecovered
            | Self::ChecksResumed
            | Self::DataplaneInSync
            | Self::MaintenanceRecovered
            | Self::RoutesWatched
            | Self::FileInSync
            | Self::Forgotten
            | Self::Stopping => Level::INFO,
        }
    }

    /// What happened, for the log.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ServiceAdded => "service added",
            Self::ServiceChanged => "service changed",
            Self::ServiceRemoved => "service removed",
            Self::RealAdded => "real added",
            Self::RealChanged => "real changed",
            Self::RealRemoved => "real removed",
            Self::VirtualRouterAdded => "virtual router added",
            Self::VirtualRouterChanged => "virtual router changed",
            Self::VirtualRouterRemoved => "virtual router removed",
            Self::Active => "Active for the VIPs",
            Self::Backup => "Backup for the VIPs",
            Self::Fault => "in fault, cannot have the VIPs",
            Self::NodeDown => "node down",
            Self::NodeUp => "node up",
            Self::Reloaded => "configuration loaded again",
            Self::ReloadFailed => "configuration not loaded, what ran goes on running",
            Self::RealDown => "real down",
            Self::RealUp => "real up",
            Self::QuorumLost => "quorum lost",
            Self::QuorumRegained => "quorum regained",
            Self::BackupsIn => "backups stepped in",
            Self::BackupsOut => "backups stepped out",
            Self::TableFull => "connection table full, new connections are refused",
            Self::TableRecovered => "connection table has room again",
            Self::ChecksStalled => "checks have stalled",
            Self::ChecksResumed => "checks run again",
            Self::DataplaneOutOfSync => "the data plane is out of sync, trying again",
            Self::DataplaneInSync => "the data plane is in sync again",
            Self::MaintenanceFailed => "maintenance failed, trying again",
            Self::MaintenanceRecovered => "maintenance works again",
            Self::RoutesUnwatched => "route changes are not watched, trying again",
            Self::RoutesWatched => "route changes are watched again",
            Self::FileOutOfSync => "the configuration file is not as it was loaded",
            Self::FileInSync => "the configuration file is as it was loaded",
            Self::Forgotten => "events forgotten",
            Self::Lost => "events lost",
            Self::Stopping => "stopping",
        }
    }
}
