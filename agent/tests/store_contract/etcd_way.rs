//! What can be wrong on the way to a healthy server: answers that do not come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use weft::store::{LeaseStore, StoreError, etcd::EtcdStore};

use crate::{
    bench::{Bench, CONFIG, claim, config, key, soon, subnet, value},
    etcd::{self, Etcd},
};

/// Passes everything to the server. Answers come late, and on connections from before
/// [`Self::swallow`] not at all.
struct Proxy {
    endpoint: String,
    deaf: Arc<std::sync::Mutex<Arc<AtomicBool>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn before(server: &Etcd) -> Self {
        let target = server.endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let deaf = Arc::new(std::sync::Mutex::new(Arc::<AtomicBool>::default()));
        let current = Arc::clone(&deaf);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let deaf = Arc::clone(&current.lock().unwrap());
                let server = TcpStream::connect(&target).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                connections.spawn(async move {
                    drop(tokio::io::copy(&mut from_client, &mut to_server).await);
                });
                connections.spawn(async move {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        if deaf.load(Ordering::SeqCst) {
                            continue;
                        }
                        if to_client.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self {
            endpoint,
            deaf,
            _tasks: tasks,
        }
    }

    /// From now on no answer comes back on the connections that are open.
    fn swallow(&self) {
        let mut deaf = self.deaf.lock().unwrap();
        deaf.store(true, Ordering::SeqCst);
        *deaf = Arc::default();
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found_and_kept() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::before(&etcd).await;
    let node = EtcdStore::new(etcd::config(&[&proxy.endpoint])).unwrap();
    let direct = etcd.node();
    let mut wanted = claim(1);
    wanted.previous = Some(subnet("10.42.5.0/24"));
    let range = config(CONFIG);
    // The answer to the write is under way for 100 ms, and is cut off in that time.
    let (lease, ()) = tokio::join!(node.claim(&range, &wanted), async {
        soon("the write", async {
            while etcd.get(&key("10.42.5.0-24")).await.is_none() {}
        })
        .await;
        proxy.swallow();
    });
    let lease = lease.unwrap();
    assert_eq!(lease.subnet, subnet("10.42.5.0/24"));
    let id = lease.store_lease.unwrap();
    assert_eq!(etcd.get(&key("10.42.5.0-24")).await, Some((value(1), id)));
    assert_eq!(etcd.leases().await, [id], "no lease is left over");
    direct.renew(&lease).await.unwrap();
    assert_eq!(direct.snapshot().await.unwrap().leases.len(), 1);
}

#[tokio::test]
async fn a_watch_whose_answers_are_lost_ends() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::before(&etcd).await;
    let patience = etcd::tuning(Duration::from_millis(500));
    let node = EtcdStore::with_tuning(etcd::config(&[&proxy.endpoint]), patience).unwrap();
    let start = node.snapshot().await.unwrap().position();
    let mut events = node.watch(start).await.unwrap();
    proxy.swallow();
    let end = soon(
        "the end of the watch",
        futures::StreamExt::next(&mut events),
    )
    .await;
    let error = end.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    // The next one goes by a new connection, and nothing was missed.
    etcd.put(&key("10.42.1.0-24"), &value(1), false).await;
    let mut events = node.watch(start).await.unwrap();
    let event = soon("an event", futures::StreamExt::next(&mut events)).await;
    assert!(event.unwrap().is_ok());
}
