//! Certificates and the password: read from their files, and read again when these change.
//!
//! What cannot be used as it is now, because it is half written or the key is not yet the one of
//! the certificate, replaces nothing: what was read before stays in use.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::{config::EtcdConfig, validity::Validity};

/// Longer files than this are none of ours.
const MAX_FILE: u64 = 1 << 20;

/// The files, and what was last read from them.
pub(super) struct Credentials {
    cafile: Option<PathBuf>,
    certfile: Option<PathBuf>,
    keyfile: Option<PathBuf>,
    password_file: Option<PathBuf>,
    /// The password where no file gives it.
    password: Option<SecretString>,
    state: Mutex<State>,
}

/// What the files said when they were last in order.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Counts up with each change.
    pub(super) generation: u64,
    /// Certificates that the server's must be signed by.
    pub(super) ca: Option<Vec<u8>>,
    /// Our certificate and its key.
    pub(super) identity: Option<(Vec<u8>, SecretSlice<u8>)>,
    /// How long that certificate is good for.
    pub(super) validity: Option<Validity>,
    /// Our password.
    pub(super) password: Option<SecretString>,
}

#[derive(Default)]
struct State {
    good: Option<Arc<Loaded>>,
    /// How the files looked when they were last in order.
    marks: Vec<Mark>,
    /// Why they are not in order now.
    wrong: Option<String>,
}

/// Tells one state of a file from the next without reading it.
type Mark = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl Credentials {
    pub(super) fn new(config: &EtcdConfig) -> Self {
        Self {
            cafile: config.cafile.clone(),
            certfile: config.certfile.clone(),
            keyfile: config.keyfile.clone(),
            password_file: config.password_file.clone(),
            password: config.password.clone(),
            state: Mutex::default(),
        }
    }

    /// What is to be used now.
    pub(super) fn look(&self) -> Result<Arc<Loaded>, String> {
        let mut state = self.state();
        // Before they are read: a write in between is seen the next time.
        let marks = self.marks();
        if let Some(good) = &state.good
            && state.wrong.is_none()
            && state.marks == marks
        {
            return Ok(Arc::clone(good));
        }
        match (self.read(), &state.good) {
            (Ok(loaded), good) => {
                let same = good.as_ref().filter(|good| is_same(good, &loaded));
                let now = match (same, good) {
                    (Some(same), _) => Arc::clone(same),
                    (None, Some(before)) => Arc::new(Loaded {
                        generation: before.generation + 1,
                        ..loaded
                    }),
                    (None, None) => Arc::new(loaded),
                };
                *state = State {
                    good: Some(Arc::clone(&now)),
                    marks,
                    wrong: None,
                };
                Ok(now)
            }
            (Err(why), Some(good)) => {
                let good = Arc::clone(good);
                if state.wrong.as_ref() != Some(&why) {
                    tracing::warn!(
                        why,
                        "etcd: changed files are not used, those read before are"
                    );
                }
                state.wrong = Some(why);
                Ok(good)
            }
            (Err(why), None) => Err(why),
        }
    }

    /// Why the files as they are now are not used, or of no use.
    pub(super) fn wrong(&self) -> Option<String> {
        let state = self.state();
        if let Some(why) = &state.wrong {
            return Some(format!("not used as they are: {why}"));
        }
        let validity = state.good.as_ref()?.validity.as_ref()?;
        validity.over(SystemTime::now())
    }

    fn marks(&self) -> Vec<Mark> {
        let files = [
            &self.cafile,
            &self.certfile,
            &self.keyfile,
            &self.password_file,
        ];
        files.into_iter().flatten().map(|path| mark(path)).collect()
    }

    fn read(&self) -> Result<Loaded, String> {
        let ca = self.cafile.as_deref().map(bytes).transpose()?;
        let roots = match (&ca, &self.cafile) {
            (Some(ca), Some(path)) => Some(authorities(ca, path)?),
            _ => None,
        };
        let mut validity = None;
        let identity = match (&self.certfile, &self.keyfile) {
            (Some(certfile), Some(keyfile)) => {
                let (cert, key) = (bytes(certfile)?, SecretSlice::from(bytes(keyfile)?));
                check_pair((certfile, &cert), (keyfile, &key), roots)?;
                validity = Validity::of(certfile, &certificates(&cert, certfile)?);
                Some((cert, key))
            }
            _ => None,
        };
        let password = match &self.password_file {
            Some(path) => Some(password(path)?),
            None => self.password.clone(),
        };
        Ok(Loaded {
            generation: 0,
            ca,
            identity,
            validity,
            password,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in a critical section can leave the value half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark(path: &Path) -> Mark {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

/// Compares in place: a copy would stay in memory.
fn is_same(one: &Loaded, other: &Loaded) -> bool {
    let identity = match (&one.identity, &other.identity) {
        (Some((cert, key)), Some((other, other_key))) => {
            cert == other && key.expose_secret() == other_key.expose_secret()
        }
        (None, None) => true,
        _ => false,
    };
    let password = match (&one.password, &other.password) {
        (Some(one), Some(other)) => one.expose_secret() == other.expose_secret(),
        (None, None) => true,
        _ => false,
    };
    one.ca == other.ca && identity && password
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("`{}` cannot be read: {why}", path.display());
    let meta = fs::metadata(path).map_err(|error| wrong(&error))?;
    // A pipe would be waited for without end.
    if !meta.is_file() {
        return Err(wrong(&"it is no file"));
    }
    if meta.len() > MAX_FILE {
        return Err(wrong(&format!("it is longer than {MAX_FILE} bytes")));
    }
    fs::read(path).map_err(|error| wrong(&error))
}

/// The password in a file: its first line.
fn password(path: &Path) -> Result<SecretString, String> {
    let bytes = SecretSlice::from(bytes(path)?);
    let text = std::str::from_utf8(bytes.expose_secret())
        .map_err(|_bytes| format!("`{}` is not text in UTF-8", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.into()),
        _ => Err(format!("`{}` holds no password", path.display())),
    }
}

fn authorities(pem: &[u8], path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|error| {
            format!("`{}` holds no CA that can be used: {error}", path.display())
        })?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("`{}` holds no certificate in PEM", path.display())),
        Err(error) => Err(format!("`{}` is not whole: {error}", path.display())),
    }
}

/// That the key is the certificate's.
fn check_pair(
    (certfile, cert): (&Path, &[u8]),
    (keyfile, key): (&Path, &SecretSlice<u8>),
    roots: Option<RootCertStore>,
) -> Result<(), String> {
    let chain = certificates(cert, certfile)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret())
        .map_err(|error| format!("`{}` holds no whole key in PEM: {error}", keyfile.display()))?;
    let provider = Arc::new(ring::default_provider());
    let checked = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|config| config.with_root_certificates(roots.unwrap_or_else(RootCertStore::empty)))
        .and_then(|config| config.with_client_auth_cert(chain, key));
    checked.map(drop).map_err(|error| {
        format!(
            "`{}` and `{}` do not belong together: {error}",
            certfile.display(),
            keyfile.display()
        )
    })
}

/// Any bytes as a CA, a certificate and a key.
#[cfg(feature = "fakes")]
pub(super) fn read_any(ca: &[u8], cert: &[u8], key: &[u8]) {
    let path = Path::new("any");
    let roots = authorities(ca, path).ok();
    let key = SecretSlice::from(key.to_vec());
    drop(check_pair((path, cert), (path, &key), roots));
}

#[cfg(test)]
mod tests;
