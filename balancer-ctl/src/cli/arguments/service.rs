//! How commands name a service, and whether what they change lasts.

use std::net::SocketAddr;

use clap::Args;

use crate::{
    cli::CommandError,
    model::{
        Protocol, ServiceKey,
        address::{self, ServiceRef},
    },
};

/// A service as the command's first argument.
#[derive(Debug, Args)]
pub struct ServiceArgument {
    /// `[tcp/|udp/]ADDRESS:PORT`, or a name
    #[arg(value_name = "SERVICE", conflicts_with_all = ["tcp", "udp"])]
    service: Option<ServiceRef>,
    #[command(flatten)]
    address: ServiceAddress,
}

/// A service as an option, where the first argument is a real server.
#[derive(Debug, Args)]
pub struct ServiceOption {
    /// The virtual service: `[tcp/|udp/]ADDRESS:PORT`, or a name
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["tcp", "udp"])]
    service: Option<ServiceRef>,
    #[command(flatten)]
    address: ServiceAddress,
}

/// A service as ipvsadm spells it.
#[derive(Debug, Args)]
struct ServiceAddress {
    /// The TCP service at this address
    #[arg(short = 't', value_name = "ADDRESS:PORT", value_parser = address::service_address, conflicts_with = "udp")]
    tcp: Option<SocketAddr>,
    /// The UDP service at this address
    #[arg(short = 'u', value_name = "ADDRESS:PORT", value_parser = address::service_address)]
    udp: Option<SocketAddr>,
}

impl ServiceAddress {
    fn key(&self) -> Option<ServiceKey> {
        let key = |protocol| move |address| ServiceKey { protocol, address };
        self.tcp
            .map(key(Protocol::Tcp))
            .or_else(|| self.udp.map(key(Protocol::Udp)))
    }

    /// The service that was named with `-t` or `-u`, else `service`.
    fn or(&self, service: Option<&ServiceRef>) -> Result<Option<ServiceRef>, CommandError> {
        if service == Some(&ServiceRef::Only) {
            return Err(CommandError::Usage(
                "`-` is no service: leave it out for the only service there is".to_owned(),
            ));
        }
        Ok(self.key().map(ServiceRef::Key).or_else(|| service.cloned()))
    }
}

impl ServiceArgument {
    /// The service that was named, if any.
    pub fn named(&self) -> Result<Option<ServiceRef>, CommandError> {
        self.address.or(self.service.as_ref())
    }

    /// The service that was named, or the only one.
    pub fn or_only(&self) -> Result<ServiceRef, CommandError> {
        Ok(self.named()?.unwrap_or(ServiceRef::Only))
    }

    /// The address of a service that does not exist yet.
    pub fn new_key(&self) -> Result<ServiceKey, CommandError> {
        match self.named()? {
            Some(ServiceRef::Key(key)) => Ok(key),
            Some(ServiceRef::Name(name)) => Err(CommandError::Usage(format!(
                "a new service needs its address: `add-service ADDRESS:PORT --name {name}`"
            ))),
            Some(ServiceRef::Only) | None => Err(CommandError::Usage(
                "a new service needs its address, as in `add-service 192.0.2.80:80`".to_owned(),
            )),
        }
    }
}

impl ServiceOption {
    /// The service that was named, or the only one.
    pub fn or_only(&self) -> Result<ServiceRef, CommandError> {
        Ok(self.named()?.unwrap_or(ServiceRef::Only))
    }

    /// The service that was named, if any.
    pub fn named(&self) -> Result<Option<ServiceRef>, CommandError> {
        self.address.or(self.service.as_ref())
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub struct RuntimeOption {
    /// Apply without writing to the configuration file: it lasts until `reload` or a restart of the daemon
    #[arg(long)]
    runtime: bool,
}

impl RuntimeOption {
    /// The query of a request with this option.
    pub fn query(self) -> String {
        format!("runtime={}", self.runtime)
    }
}
