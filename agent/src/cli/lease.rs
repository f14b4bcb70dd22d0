//! Flags about this node's lease.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::EtcdArgs;
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

/// Flags of `weft cleanup` about its lease: where the store is, as `weft run` has them.
#[derive(Clone, Debug, Args)]
pub struct ReleaseArgs {
    /// Give the subnet back at once, if it still is this host's. A reservation stays.
    #[arg(long)]
    pub release: bool,
    /// The store.
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use secrecy::ExposeSecret as _;

    use crate::cli::{Verb, parse};

    #[test]
    fn cleanup_finds_the_store_as_the_agent_does() {
        let args = ["weft", "cleanup", "--release", "--etcd-prefix=/x"].map(OsString::from);
        let environment = |name: &str| {
            let known = ["FLANNELD_ETCD_PREFIX", "FLANNELD_ETCD_PASSWORD"];
            known.contains(&name).then(|| "secret".to_owned())
        };
        let Verb::Cleanup(args) = parse(args, environment).unwrap().verb else {
            panic!("another verb");
        };
        assert!(args.lease.release);
        assert_eq!(args.lease.etcd.etcd_prefix, "/x");
        let password = args.lease.etcd.etcd_password.expect("a password");
        assert_eq!(password.expose_secret(), "secret");
    }
}
