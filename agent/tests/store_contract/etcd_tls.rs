//! TLS with a real server: what is needed, what its absence says, and files that are replaced.

use std::{fs, time::Duration};

use weft::store::{
    LeaseStore, StoreError,
    etcd::{EtcdConfig, EtcdStore},
};

use crate::{
    bench::{CONFIG, claim, config, soon},
    certificates::{Authority, Says},
    etcd,
};

const OTHER: Says<'_> = Says {
    names: &["etcd.example"],
    expired: false,
};
const NAMELESS: Says<'_> = Says {
    names: &[],
    expired: false,
};
const EXPIRED: Says<'_> = Says {
    names: &["127.0.0.1"],
    expired: true,
};

async fn refused(config: EtcdConfig, remedy: &str) {
    let node = EtcdStore::new(config).unwrap();
    let error = node.snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(remedy), "{error}");
}

#[tokio::test]
async fn tls_works_and_its_errors_say_what_is_missing() {
    let authority = Authority::new();
    let etcd = authority.server("server", true).await;
    let all = authority.config(&etcd);
    let node = EtcdStore::new(all.clone()).unwrap();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    node.renew(&lease).await.unwrap();
    refused(etcd.config(), "--etcd-cafile").await;
    let no_cert = EtcdConfig {
        certfile: None,
        keyfile: None,
        ..all.clone()
    };
    refused(no_cert, "--etcd-certfile").await;
    let plain = etcd::config(&[&etcd.endpoint.replace("https", "http")]);
    refused(plain, "https://").await;
    let stranger = Authority::new();
    let other_ca = EtcdConfig {
        cafile: Some(stranger.file("ca.pem")),
        ..all.clone()
    };
    refused(other_ca, "--etcd-cafile").await;
    authority.sign("late", &EXPIRED);
    let expired = EtcdConfig {
        certfile: Some(authority.file("late.pem")),
        keyfile: Some(authority.file("late.key")),
        ..all
    };
    refused(expired, "--etcd-certfile").await;
}

#[tokio::test]
async fn a_ca_alone_means_tls_and_the_servers_name_counts() {
    let authority = Authority::new();
    authority.sign("other", &OTHER);
    let etcd = authority.server("other", false).await;
    let ca = EtcdConfig {
        cafile: Some(authority.file("ca.pem")),
        // Without a scheme: the CA says which one.
        ..etcd::config(&[etcd.endpoint.trim_start_matches("https://")])
    };
    refused(ca.clone(), "subject alternative name").await;
    let named = EtcdConfig {
        server_name: Some("etcd.example".to_owned()),
        ..ca
    };
    let node = EtcdStore::new(named).unwrap();
    node.claim(&config(CONFIG), &claim(1)).await.unwrap();
}

#[tokio::test]
async fn a_server_without_names_or_out_of_date_is_said() {
    let authority = Authority::new();
    authority.sign("nameless", &NAMELESS);
    authority.sign("late", &EXPIRED);
    for (server, said) in [
        ("nameless", "subject alternative name"),
        ("late", "has run out"),
    ] {
        let etcd = authority.server(server, false).await;
        refused(authority.config(&etcd), said).await;
    }
}

#[tokio::test]
async fn replaced_files_are_used_without_a_restart() {
    let authority = Authority::new();
    let etcd = authority.server("server", true).await;
    let node = EtcdStore::new(authority.config(&etcd)).unwrap();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    let health = node.health();
    let keeping = async {
        tokio::select! {
            () = node.keep_way() => unreachable!("it never ends"),
            () = async {
                // Half of a file: what was read before goes on, and it is said.
                let good = fs::read_to_string(authority.file("client.pem")).unwrap();
                authority.replace("client.pem", good.get(..300).unwrap());
                told(&health, |files| files.is_some_and(|why| why.contains("client.pem"))).await;
                node.renew(&lease).await.unwrap();
                authority.replace("client.pem", &good);
                told(&health, |files| files.is_none()).await;
                // A certificate that the server refuses is in use at the next call: it was read.
                authority.sign("client", &EXPIRED);
                soon("the expired certificate", async {
                    while node.renew(&lease).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                })
                .await;
                authority.sign("client", &NAMELESS);
                soon("the new certificate", async {
                    while node.renew(&lease).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                })
                .await;
            } => {}
        }
    };
    keeping.await;
}

async fn told(
    health: &tokio::sync::watch::Receiver<weft::store::etcd::Health>,
    is: impl Fn(Option<&String>) -> bool,
) {
    let mut health = health.clone();
    soon("the state of the files", async {
        health.wait_for(|now| is(now.files.as_ref())).await.unwrap();
    })
    .await;
}
