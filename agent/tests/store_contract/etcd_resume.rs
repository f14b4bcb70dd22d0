//! A way that breaks in the middle of a long catch-up: what was told is not told again, and nothing
//! is left out. flannel goes on from the answer's revision, which is far ahead of its events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use weft::{
    model::lease::Snapshot,
    reconcile::{
        leases::{Following, RELIST, StoreNews, follow},
        loss::SharedLedger,
    },
    store::{LeaseStore, etcd::EtcdStore},
};

use crate::{
    bench::{Bench, key, soon, subnet, value},
    etcd::{self, Etcd},
};

/// Revisions that are missed. The server tells of them a thousand an answer.
const MISSED: usize = 1_500;
/// More than one answer of a thousand, and less than two.
const BYTES: usize = 265_000;
const NODES: usize = 100;

#[derive(Clone, Copy)]
enum Mode {
    Open,
    Shut,
    /// Each connection ends after so many bytes of answers.
    Short(usize),
}

/// Passes everything on, as far as its mode lets it. A change of the mode ends all connections.
struct Cutter {
    endpoint: String,
    mode: watch::Sender<Mode>,
    /// Connections that used up their bytes.
    cut: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Cutter {
    async fn before(server: &Etcd) -> Self {
        let target = server.endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mode = watch::Sender::new(Mode::Open);
        let cut = Arc::<AtomicUsize>::default();
        let (told, count) = (mode.subscribe(), Arc::clone(&cut));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                connections.spawn(pass(client, server, told.clone(), Arc::clone(&count)));
            }
        });
        Self {
            endpoint,
            mode,
            cut,
            _task: task,
        }
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    mut mode: watch::Receiver<Mode>,
    cut: Arc<AtomicUsize>,
) {
    let now = *mode.borrow_and_update();
    let mut left = match now {
        Mode::Open => usize::MAX,
        Mode::Shut => return,
        Mode::Short(bytes) => bytes,
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async {
        let mut buffer = vec![0; 1 << 14];
        while left > 0 {
            let most = left.min(buffer.len());
            let Ok(length @ 1..) = from_server.read(&mut buffer[..most]).await else {
                return;
            };
            if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            left -= length;
        }
        cut.fetch_add(1, Ordering::SeqCst);
    };
    tokio::select! {
        () = answers => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = mode.changed() => {}
    }
}

#[tokio::test]
async fn a_catch_up_that_breaks_off_goes_on_where_it_was() {
    let etcd = Etcd::start().await;
    let cutter = Cutter::before(&etcd).await;
    let node = Arc::new(EtcdStore::new(etcd::config(&[&cutter.endpoint])).unwrap());
    let direct = etcd.node();
    etcd.put(&key("10.42.1.0-24"), &value(1), false).await;
    let (sender, mut news) = mpsc::channel(64);
    let ledger = SharedLedger::new(Duration::from_secs(60));
    ledger.open().begin(subnet("10.42.1.0/24"), []);
    let how = Following {
        ledger,
        relist: RELIST,
        kept: watch::Sender::new(0),
    };
    let follower = tokio::spawn(follow(Arc::clone(&node), how, sender));
    let Some(StoreNews::Snapshot(mut believed)) = soon("a snapshot", news.recv()).await else {
        panic!("a snapshot comes first");
    };

    cutter.mode.send_replace(Mode::Shut);
    let client = etcd.client().await;
    for batch in 0..MISSED / NODES {
        let puts = (1..=NODES).map(|node| {
            let mut client = client.clone();
            let name = key(&format!("10.42.{}.0-24", 100 + node));
            let value = value(u8::try_from((batch + node) % 250 + 1).unwrap());
            async move { client.put(name, value, None).await.unwrap() }
        });
        futures::future::join_all(puts).await;
    }
    cutter.mode.send_replace(Mode::Short(BYTES));

    let want: Snapshot = direct.snapshot().await.unwrap();
    let mut events = 0;
    soon("the end of the catch-up", async {
        while believed.leases != want.leases {
            match news.recv().await.unwrap() {
                StoreNews::Event(event) => {
                    events += 1;
                    believed.apply(event, |subnet| direct.key_of(subnet));
                }
                StoreNews::Down(_) | StoreNews::Back => {}
                StoreNews::Snapshot(_) => panic!("all leases were read again"),
            }
        }
    })
    .await;
    assert_eq!(events, MISSED, "nothing twice, and nothing left out");
    assert!(cutter.cut.load(Ordering::SeqCst) >= 1, "it never broke off");
    follower.abort();
}
