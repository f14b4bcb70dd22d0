//! A real etcd on loopback, for one test.

use std::{
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::{Client, ConnectOptions, PutOptions};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tempfile::TempDir;
use weft::store::etcd::{EtcdConfig, EtcdStore, Tuning};

use crate::bench::{Bench, DEADLINE, PREFIX};

/// The server, unless `WEFT_ETCD` names another.
const PROGRAM: &str = "/usr/bin/etcd";

fn program() -> PathBuf {
    std::env::var_os("WEFT_ETCD").map_or_else(|| PROGRAM.into(), PathBuf::from)
}

/// The server; it ends with the value, also when the test fails.
pub struct Etcd {
    child: Child,
    pub endpoint: String,
    dir: TempDir,
}

impl Etcd {
    pub async fn start() -> Self {
        Self::start_with(&[], "http").await
    }

    /// A server with more arguments, reached by `scheme`. Waits until its port is open, and for
    /// plain HTTP until it answers.
    pub async fn start_with(args: &[String], scheme: &str) -> Self {
        // Another process may take a port between our look and etcd's start.
        for _ in 0..5 {
            if let Some(etcd) = Self::try_start(args, scheme).await {
                return etcd;
            }
        }
        panic!("{} did not start, five times", program().display());
    }

    async fn try_start(args: &[String], scheme: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let (port, peer_port) = (free_port(), free_port());
        let endpoint = format!("{scheme}://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program())
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args([
                "--listen-client-urls",
                &endpoint,
                "--advertise-client-urls",
                &endpoint,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => panic!(
                "the store contract needs a real etcd: {} cannot be run ({error}); `cargo xtask setup` installs what is needed",
                program().display()
            ),
        };
        let mut etcd = Self {
            child,
            endpoint,
            dir,
        };
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = etcd.child.try_wait().unwrap() {
                eprintln!("etcd ended with {status}:\n{}", etcd.log());
                return None;
            }
            if etcd.answers(scheme, port).await {
                return Some(etcd);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not answer:\n{}", etcd.log());
    }

    async fn answers(&self, scheme: &str, port: u16) -> bool {
        if scheme == "https" {
            return self.log().contains("ready to serve client requests")
                && tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .is_ok();
        }
        let mut client = self.client().await;
        client.get("x", None).await.is_ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A client of our own, for raw access.
    pub async fn client(&self) -> Client {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(5));
        Client::connect([&self.endpoint], Some(options))
            .await
            .unwrap()
    }

    pub fn config(&self) -> EtcdConfig {
        config(&[&self.endpoint])
    }

    /// Stops the server without ending it: its connections stay open and nothing answers.
    pub fn freeze(&self) {
        let pid = self.signal(Signal::SIGSTOP);
        // Threads that still run may answer one more call; this returns when all have stopped.
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) -> Pid {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
        pid
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // SIGKILL ends a frozen process too. There is nobody to tell of a failure here.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Bench for Etcd {
    type Store = EtcdStore;

    fn node(&self) -> EtcdStore {
        EtcdStore::new(self.config()).unwrap()
    }

    async fn put(&self, key: &str, value: &str, leased: bool) -> i64 {
        let mut client = self.client().await;
        let lease = if leased {
            // The same as flannel's, which is what we may find.
            client.lease_grant(86_400, None).await.unwrap().id()
        } else {
            0
        };
        let options = PutOptions::new().with_lease(lease);
        client.put(key, value, Some(options)).await.unwrap();
        lease
    }

    async fn get(&self, key: &str) -> Option<(String, i64)> {
        let got = self.client().await.get(key, None).await.unwrap();
        let kv = got.kvs().first()?;
        Some((kv.value_str().unwrap().to_owned(), kv.lease()))
    }

    async fn delete(&self, key: &str) {
        self.client().await.delete(key, None).await.unwrap();
    }

    async fn expire(&self, lease: i64) {
        // One that is over already is as good.
        drop(self.client().await.lease_revoke(lease).await);
    }

    async fn compact(&self) {
        let mut client = self.client().await;
        let now = client.get("x", None).await.unwrap();
        let now = now.header().unwrap().revision();
        client.compact(now, None).await.unwrap();
    }

    async fn leases(&self) -> Vec<i64> {
        let leases = self.client().await.leases().await.unwrap();
        leases.leases().iter().map(|lease| lease.id()).collect()
    }
}

pub fn config(endpoints: &[&str]) -> EtcdConfig {
    EtcdConfig {
        endpoints: endpoints.iter().map(|&e| e.to_owned()).collect(),
        prefix: PREFIX.to_owned(),
        ..EtcdConfig::default()
    }
}

/// Time limits with a short patience for silent watches.
pub fn tuning(silence: Duration) -> Tuning {
    Tuning {
        silence,
        ..Tuning::default()
    }
}

/// An endpoint where nobody listens.
pub fn dead() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
