//! Flags about this node's lease.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use secrecy::SecretString;

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
    /// etcd endpoints, separated by commas.
    #[arg(long, default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379")]
    pub etcd_endpoints: String,
    /// Key prefix in etcd.
    #[arg(long, default_value = "/coreos.com/network")]
    pub etcd_prefix: String,
    /// Client key for etcd, in PEM.
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// Client certificate for etcd, in PEM.
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// Certificates that sign etcd's own, in PEM.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// User in etcd.
    #[arg(long)]
    pub etcd_username: Option<String>,
    /// Password of that user. Better in the environment: a command line can be read by others.
    #[arg(long)]
    pub etcd_password: Option<SecretString>,
    /// A file with that password in its first line.
    #[arg(long)]
    pub etcd_password_file: Option<PathBuf>,
    /// Name that etcd's certificate must have, where it is not the endpoint's.
    #[arg(long)]
    pub etcd_server_name: Option<String>,
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
        assert_eq!(args.lease.etcd_prefix, "/x");
        let password = args.lease.etcd_password.expect("a password");
        assert_eq!(password.expose_secret(), "secret");
    }
}
