//! Certificates for etcd and its clients, made by openssl as an operator makes them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    command,
    paths::{OPENSSL, required},
};

/// Where a member with certificates tells its counters, to whoever is in its namespace; as bash
/// has it.
pub const METRICS: &str = "127.0.0.1/2381";

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    name: String,
    folder: PathBuf,
}

/// A certificate and its key, in files that are written anew to replace them.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    Long,
    Expired,
}

/// Certificates on both sides, and tokens that do not live long.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The authorities of servers and clients.
    pub authorities: PathBuf,
    /// Every member's.
    pub server: Identity,
    /// etcdctl's.
    pub client: Identity,
    /// Seconds without use after which a token is worthless.
    pub token_ttl: u64,
}

impl Guard {
    /// What a member is started with.
    pub fn of_server(&self) -> Vec<String> {
        vec![
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={}", self.authorities.display()),
            format!("--cert-file={}", self.server.cert.display()),
            format!("--key-file={}", self.server.key.display()),
            format!("--auth-token-ttl={}", self.token_ttl),
            format!("--listen-metrics-urls=http://{}", METRICS.replace('/', ":")),
        ]
    }

    /// What etcdctl is started with.
    pub fn of_client(&self) -> Vec<String> {
        vec![
            format!("--cacert={}", self.authorities.display()),
            format!("--cert={}", self.client.cert.display()),
            format!("--key={}", self.client.key.display()),
        ]
    }
}

impl Authority {
    /// A new one, with its files in `folder`.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let authority = Self {
            name: name.to_owned(),
            folder: folder.to_path_buf(),
        };
        fs::create_dir_all(folder).context("make a folder for certificates")?;
        let mut request = openssl("req -x509 -days 2")?;
        request.args(["-subj", &format!("/CN={name}")]);
        request.arg("-keyout").arg(authority.key());
        request.arg("-out").arg(authority.cert());
        with_new_key(&mut request)?;
        Ok(authority)
    }

    /// Its own certificate.
    pub fn cert(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    fn key(&self) -> PathBuf {
        self.folder.join(format!("{}.key", self.name))
    }

    /// Writes a certificate for `name`, and the addresses in `names`, with a new key.
    pub fn issue(&self, to: &Identity, name: &str, names: &str, valid: Valid) -> Result<()> {
        let file = |kind: &str| self.folder.join(format!("{name}.{kind}"));
        let (asked, key, cert) = (file("csr"), file("new-key"), file("new-cert"));
        let mut request = openssl("req")?;
        request.args(["-subj", &format!("/CN={name}")]);
        if !names.is_empty() {
            request.args(["-addext", &format!("subjectAltName={names}")]);
        }
        request.args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"]);
        request.arg("-keyout").arg(&key).arg("-out").arg(&asked);
        with_new_key(&mut request)?;
        let days = match valid {
            Valid::Long => "2",
            Valid::Expired => "-1",
        };
        let mut sign = openssl("x509 -req -copy_extensions copy -CAcreateserial -days")?;
        sign.arg(days).arg("-in").arg(&asked);
        sign.arg("-CA")
            .arg(self.cert())
            .arg("-CAkey")
            .arg(self.key());
        command::run(sign.arg("-out").arg(&cert))?;
        // The key first: until the certificate is there as well, the two do not belong together.
        fs::rename(&key, &to.key).context("put the key in place")?;
        fs::rename(&cert, &to.cert).context("put the certificate in place")
    }
}

impl Identity {
    /// Where these files are to be.
    pub fn at(folder: &Path, name: &str) -> Self {
        Self {
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        }
    }
}

fn openssl(words: &str) -> Result<Command> {
    let mut command = Command::new(required(OPENSSL)?);
    command.args(words.split_whitespace());
    Ok(command)
}

fn with_new_key(request: &mut Command) -> Result<()> {
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    command::run(request.args(key)).map(drop)
}
