//! How etcd is reached: endpoints, files, time limits.

use std::{fmt, fs, path::PathBuf, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::lease;

/// How a server refuses our certificate, or that we have none.
const REFUSED: [&str; 4] = [
    "BadCertificate",
    "CertificateRequired",
    "CertificateExpired",
    "UnknownCA",
];

/// How the same refusal, or a server that expected TLS, may look as well; which of them it is
/// depends on who notices first.
const CLOSED: [&str; 5] = [
    "connection closed",
    "operation was canceled",
    "broken pipe",
    "onnection reset",
    "FRAME_SIZE_ERROR",
];

/// Where etcd is and who we are to it, as the command line says.
#[derive(Clone, Default)]
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
    /// Our user name.
    pub username: Option<String>,
    /// Our password.
    pub password: Option<String>,
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
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ttl: lease::TTL,
            call: Duration::from_secs(2),
            total: Duration::from_secs(3),
            silence: Duration::from_secs(15),
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
        if self.password.is_some() && self.username.is_none() {
            return Err("a password is given without a user: use --etcd-username".to_owned());
        }
        Ok(())
    }

    /// Options for one connection. Files are read anew each time, so that a replaced certificate
    /// is used from the next connection on.
    pub(super) fn options(
        &self,
        endpoint: &str,
        tuning: &Tuning,
    ) -> Result<ConnectOptions, String> {
        let interval = Duration::from_secs(5);
        let mut options = ConnectOptions::new()
            .with_timeout(tuning.call)
            .with_connect_timeout(tuning.call / 2)
            // Without it a frozen server is never noticed by a watch.
            .with_keep_alive(interval, interval)
            .with_keep_alive_while_idle(true)
            // A member that was cut off from the others must not answer from its old state.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &self.username {
            options = options.with_user(user, self.password.as_deref().unwrap_or_default());
        }
        if endpoint.starts_with("https://") {
            options = options.with_tls(self.tls()?);
        }
        Ok(options)
    }

    /// What a person needs to know to make sense of an error.
    pub(super) fn hint(&self, why: &str) -> &'static str {
        if why.contains("UnknownIssuer") {
            "; the server's certificate is signed by none we know: give its CA with --etcd-cafile"
        } else if why.contains("not valid for") {
            "; the server's certificate does not name this host: it needs a subject alternative name"
        } else if REFUSED.iter().any(|sign| why.contains(sign)) {
            self.guess()
        } else {
            ""
        }
    }

    /// The same for a connection that never worked, where a server that hangs up most likely
    /// wanted something else of us.
    pub(super) fn first_hint(&self, why: &str) -> &'static str {
        match self.hint(why) {
            "" if CLOSED.iter().any(|sign| why.contains(sign)) => self.guess(),
            "" if why.contains("onnection refused") => {
                "; nobody listens there: start etcd, or say where it is with --etcd-endpoints"
            }
            hint => hint,
        }
    }

    fn guess(&self) -> &'static str {
        if !self.is_encrypted() {
            "; the server may expect TLS: write https:// and give --etcd-cafile"
        } else if self.certfile.is_none() {
            "; the server may require a client certificate: give --etcd-certfile and --etcd-keyfile"
        } else {
            "; the server may not accept our certificate: check --etcd-certfile and its dates"
        }
    }

    fn is_encrypted(&self) -> bool {
        self.endpoints.iter().any(|e| e.starts_with("https://"))
    }

    fn has_tls_files(&self) -> bool {
        self.cafile.is_some() || self.certfile.is_some() || self.keyfile.is_some()
    }

    fn tls(&self) -> Result<TlsOptions, String> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|e| format!("`{}` cannot be read: {e}", path.display()))
        };
        let mut tls = TlsOptions::new();
        tls = match &self.cafile {
            // The given CA is the only one, as in Go.
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_enabled_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.certfile, &self.keyfile) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoints,
            prefix,
            cafile,
            certfile,
            keyfile,
            username,
            password,
        } = self;
        f.debug_struct("EtcdConfig")
            .field("endpoints", endpoints)
            .field("prefix", prefix)
            .field("cafile", cafile)
            .field("certfile", certfile)
            .field("keyfile", keyfile)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "..."))
            .finish()
    }
}

#[cfg(test)]
mod tests;
