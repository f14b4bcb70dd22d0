//! A CA, and the certificates that it signs: as etcd has them, and as it must not have them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use weft::store::etcd::EtcdConfig;

use crate::etcd::Etcd;

/// Makes files `<name>.pem` and `<name>.key` in a folder of its own.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate says.
pub struct Says<'a> {
    /// Host names and addresses.
    pub names: &'a [&'a str],
    /// Its time is over.
    pub expired: bool,
}

impl Authority {
    /// With a server's and a client's certificate for loopback.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = name("ca");
        let own = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), own.pem()).unwrap();
        let authority = Self {
            dir,
            issuer: Issuer::new(params, key),
        };
        let loopback = Says {
            names: &["127.0.0.1"],
            expired: false,
        };
        authority.sign("server", &loopback);
        authority.sign("client", &loopback);
        authority
    }

    /// Makes a certificate and its key, or replaces them, each file in one step.
    pub fn sign(&self, file: &str, says: &Says<'_>) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = says.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = name(file);
        if says.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 2);
        }
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        self.replace(&format!("{file}.key"), &key.serialize_pem());
        self.replace(&format!("{file}.pem"), &signed.pem());
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn replace(&self, name: &str, text: &str) {
        let draft = self.file("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.file(name)).unwrap();
    }

    /// A server that shows `server` and, with `mutual`, wants a certificate of ours.
    pub async fn server(&self, server: &str, mutual: bool) -> Etcd {
        let path = |name: &str| display(&self.file(name));
        let mut args = vec![
            "--cert-file".to_owned(),
            path(&format!("{server}.pem")),
            "--key-file".to_owned(),
            path(&format!("{server}.key")),
            "--log-outputs=stderr".to_owned(),
        ];
        if mutual {
            args.extend(["--trusted-ca-file".to_owned(), path("ca.pem")]);
            args.push("--client-cert-auth".to_owned());
        }
        Etcd::start_with(&args, "https").await
    }

    /// Our side, with CA and certificate.
    pub fn config(&self, etcd: &Etcd) -> EtcdConfig {
        EtcdConfig {
            cafile: Some(self.file("ca.pem")),
            certfile: Some(self.file("client.pem")),
            keyfile: Some(self.file("client.key")),
            ..etcd.config()
        }
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
