//! Flags about this node's lease.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::lease::ttl;

/// Flags of `weft run` about its lease.
#[derive(Clone, Debug, Args)]
pub struct LeaseArgs {
    /// How long a lease lives when it is not renewed (15s, 10m, 24h): the time after which a dead
    /// host's subnet is free.
    #[arg(long, default_value = "24h", value_parser = ttl::parse)]
    pub lease_ttl: Duration,
    /// When another node has taken our subnet: stay unready until an operator acts (stop), or take
    /// a new one (renumber). Containers of the old one are cut off from the overlay either way.
    #[arg(long, value_enum, default_value_t = OnSubnetLost::Stop)]
    pub on_subnet_lost: OnSubnetLost,
}

/// `--on-subnet-lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnSubnetLost {
    /// Waits for an operator.
    Stop,
    /// Takes a new subnet.
    Renumber,
}
