//! Flags about the store, as flanneld has them, and a few more.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

/// Where etcd is, and who we are there.
#[derive(Clone, Debug, Args)]
pub struct EtcdArgs {
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
    /// The name that etcd's certificate must have, where it is not the endpoint's.
    #[arg(long)]
    pub etcd_server_name: Option<String>,
    /// User in etcd.
    #[arg(long)]
    pub etcd_username: Option<String>,
    /// Password of that user. Better in the environment or in a file: a shell's history and the
    /// programs that start weft keep a command line.
    #[arg(long)]
    pub etcd_password: Option<SecretString>,
    /// A file with that password in its first line; read again when it changes.
    #[arg(long)]
    pub etcd_password_file: Option<PathBuf>,
}
