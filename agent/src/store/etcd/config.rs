//! How etcd is reached: endpoints, files, time limits.

use std::{path::PathBuf, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use secrecy::{ExposeSecret as _, SecretString};

use super::credentials::Loaded;
use crate::lease;

/// Where etcd is and who we are to it, as the command line says.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// Addresses of members, `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// What every key starts with, `/coreos.com/network` by default in flannel.
    pub prefix: String,
    /// Certificates that the server's must be signed by.
    pub cafile: Option<PathBuf>,
    /// Our certificate.
    pub certfile: Option<PathBuf>,
    /// The key of our certificate.
    pub keyfile: Option<PathBuf>,
    /// The name that the server's certificate must have, where it is not the endpoint's.
    pub server_name: Option<String>,
    /// Our user name.
    pub username: Option<String>,
    /// Our password.
    pub password: Option<SecretString>,
    /// A file that holds our password in its first line.
    pub password_file: Option<PathBuf>,
}

/// Time limits. Tests shorten them; nothing else should need to.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How long a lease lives without renewal.
    pub ttl: Duration,
    /// The limit of one call to one endpoint, connecting included.
    pub call: Duration,
    /// The limit of one call when several endpoints are tried in turn.
    pub total: Duration,
    /// How long a watch may be silent before the server is asked for a sign of life, and how
    /// long the server then has to give one.
    pub silence: Duration,
    /// How often HTTP/2 asks for a sign of life, and how long the answer may take.
    pub keep_alive: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ttl: lease::TTL,
            call: Duration::from_secs(2),
            total: Duration::from_secs(3),
            silence: Duration::from_secs(15),
            keep_alive: Duration::from_secs(5),
        }
    }
}

impl Tuning {
    /// How often the store is asked whether we are let in: several times between two renewals,
    /// and never so often that many nodes would be a burden.
    pub(super) fn knock(&self) -> Duration {
        (self.ttl / 8).clamp(Duration::from_secs(1), Duration::from_secs(30))
    }

    /// Notices a silent server after `patience`, in calls, in watches and on the connection.
    #[must_use]
    pub fn patient(patience: Duration) -> Self {
        Self {
            call: patience,
            total: patience * 3,
            silence: patience * 3,
            keep_alive: patience,
            ..Self::default()
        }
    }
}

impl EtcdConfig {
    /// Completes addresses that have no scheme, as Go's client does, and refuses what cannot
    /// work, before anything is sent.
    pub(super) fn completed(mut self) -> Result<Self, String> {
        let scheme = if self.has_tls_files() {
            "https"
        } else {
            "http"
        };
        for endpoint in &mut self.endpoints {
            let trimmed = endpoint.trim().trim_end_matches('/');
            *endpoint = if trimmed.contains("://") || trimmed.is_empty() {
                trimmed.to_owned()
            } else {
                format!("{scheme}://{trimmed}")
            };
        }
        self.endpoints.retain(|endpoint| !endpoint.is_empty());
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), String> {
        if self.endpoints.is_empty() {
            return Err("no endpoint is given: use --etcd-endpoints".to_owned());
        }
        let encrypted = self.is_encrypted();
        for endpoint in &self.endpoints {
            let plain = endpoint.starts_with("http://");
            if !plain && !endpoint.starts_with("https://") {
                return Err(format!(
                    "the endpoint `{endpoint}` must start with http:// or https://"
                ));
            }
            // Whoever gives a certificate means to be protected; flannel would silently not be.
            if plain && self.has_tls_files() {
                return Err(format!(
                    "the endpoint `{endpoint}` is not encrypted although certificates are given: write https://, or leave the files out"
                ));
            }
            // The password would go over both.
            if plain && encrypted {
                return Err(format!(
                    "the endpoint `{endpoint}` is not encrypted and others are: write https:// for all"
                ));
            }
        }
        if self.certfile.is_some() != self.keyfile.is_some() {
            return Err(
                "a client certificate needs its key and the other way round: give both --etcd-certfile and --etcd-keyfile"
                    .to_owned(),
            );
        }
        let password = self.password.is_some() || self.password_file.is_some();
        if password && self.username.is_none() {
            return Err("a password is given without a user: use --etcd-username".to_owned());
        }
        if self.server_name.is_some() && !encrypted {
            return Err(
                "a server name is given and no endpoint is encrypted: write https://, or leave --etcd-server-name out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Options for one connection.
    pub(super) fn options(
        &self,
        endpoint: &str,
        loaded: &Loaded,
        tuning: &Tuning,
    ) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_timeout(tuning.call)
            .with_connect_timeout(tuning.call / 2)
            // Without it a frozen server is never noticed by a watch.
            .with_keep_alive(tuning.keep_alive, tuning.keep_alive)
            .with_keep_alive_while_idle(true)
            // A member that was cut off from the others must not answer from its old state.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &self.username {
            let password = loaded.password.as_ref();
            let password = password.map(|password| password.expose_secret());
            options = options.with_user(user, password.unwrap_or_default());
        }
        if endpoint.starts_with("https://") {
            options = options.with_tls(self.tls(loaded));
        }
        options
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.endpoints.iter().any(|e| e.starts_with("https://"))
    }

    fn has_tls_files(&self) -> bool {
        self.cafile.is_some() || self.certfile.is_some() || self.keyfile.is_some()
    }

    fn tls(&self, loaded: &Loaded) -> TlsOptions {
        let mut tls = TlsOptions::new();
        tls = match &loaded.ca {
            // The given CA is the only one, as in Go.
            Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
            None => tls.with_enabled_roots(),
        };
        if let Some((cert, key)) = &loaded.identity {
            tls = tls.identity(Identity::from_pem(cert, key.expose_secret()));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        tls
    }
}

#[cfg(test)]
mod tests;
