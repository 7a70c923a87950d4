//! Arguments of the commands about nodes that share VIPs.

use clap::{Args, Subcommand};

/// To whom the VIPs go.
#[derive(Debug, Args)]
pub struct Failover {
    /// The node that takes over; without it, the one with the highest priority
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
}

/// Another node.
#[derive(Debug, Args)]
pub struct OtherNode {
    /// Its name; left out, it is the only other node there is
    #[arg(value_name = "NODE")]
    pub node: Option<String>,
}

/// How this node goes into maintenance.
#[derive(Debug, Args)]
pub struct MaintainNode {
    /// Also if no other node takes the VIPs, which no node has then
    #[arg(long)]
    pub force: bool,
}

/// The node that this one joins.
#[derive(Debug, Args)]
pub struct JoinNode {
    /// What `node key` printed there, and its address; the port is 4446 if none is named. `-` as the key reads it from
    /// standard input, so that it is not in the list of processes
    #[arg(value_name = "KEY@ADDRESS", allow_hyphen_values = true)]
    pub target: String,
}

/// A node that is taken out.
#[derive(Debug, Args)]
pub struct RemoveNode {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// What is done with nodes.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Give the VIPs up and stay away from them, also after a restart, until `ready`
    ///
    /// It ends when another node has the VIPs. If none takes them, they stay, and the command fails.
    #[command(after_help = "Example:\n  balancer-ctl node maintenance")]
    Maintenance(MaintainNode),
    /// Print the key with which other nodes join; makes one if there is none
    ///
    /// Whoever has the key can be one of the nodes.
    #[command(after_help = "Example:\n  balancer-ctl node key")]
    Key,
    /// Make this node one of those that the node at ADDRESS belongs to
    #[command(
        after_help = "Example:\n  ssh 192.168.9.1 balancer-ctl node key | balancer-ctl node join -@192.168.9.1"
    )]
    Join(JoinNode),
    /// Take a node out: it forgets the others, and they forget it
    ///
    /// Its virtual routers go on as they are: it can still take the VIPs until balancerd is stopped there, or its `[[vrrp]]` blocks are
    /// taken out of its file.
    #[command(after_help = "Example:\n  balancer-ctl node remove lb2")]
    Remove(RemoveNode),
    /// Take part again after maintenance
    #[command(after_help = "Example:\n  balancer-ctl node ready")]
    Ready,
}
