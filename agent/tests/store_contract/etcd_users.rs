//! Users and passwords with a real server: tokens that run out, passwords that change.

use std::{process::Command, sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, Permission};
use futures::StreamExt;
use weft::{
    model::lease::Position,
    store::{
        LeaseStore, StoreError,
        etcd::{EtcdConfig, EtcdStore, Tuning},
    },
};

use crate::{
    bench::{Bench, CONFIG, PREFIX, claim, config, soon},
    etcd::Etcd,
};

/// Turns authentication on, with a user `weft` who may do what the agent does, and no more.
async fn with_users(etcd: &Etcd) -> Client {
    let mut client = etcd.client().await;
    for (user, password, role) in [("root", "r", "root"), ("weft", "secret", "weft")] {
        client.user_add(user, password, None).await.unwrap();
        client.role_add(role).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    let config_key = format!("{PREFIX}/config");
    client.put(config_key.as_str(), CONFIG, None).await.unwrap();
    let leases = format!("{PREFIX}/subnets/");
    for permission in [
        Permission::read(config_key),
        Permission::read_write(leases).with_prefix(),
    ] {
        client
            .role_grant_permission("weft", permission)
            .await
            .unwrap();
    }
    client.auth_enable().await.unwrap();
    let options = ConnectOptions::new()
        .with_user("root", "r")
        .with_auto_token_refresh(true)
        .with_timeout(Duration::from_secs(5));
    Client::connect([&etcd.endpoint], Some(options))
        .await
        .unwrap()
}

fn user(etcd: &Etcd, password: &str) -> EtcdConfig {
    EtcdConfig {
        username: Some("weft".to_owned()),
        password: Some(password.into()),
        ..etcd.config()
    }
}

/// Longer than the tokens of these servers live. Nothing can be asked meanwhile: what is asked
/// keeps a token alive.
async fn until_tokens_are_over() {
    tokio::time::sleep(Duration::from_millis(2_300)).await;
}

/// Everything that the agent does, after its token ran out, a watch first.
async fn goes_on_without_a_token(etcd: &Etcd) {
    drop(with_users(etcd).await);
    let node = EtcdStore::new(user(etcd, "secret")).unwrap();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    let start = node.snapshot().await.unwrap().position();
    let mut old = node.watch(start).await.unwrap();
    until_tokens_are_over().await;
    let mut new = node.watch(start).await.unwrap();
    until_tokens_are_over().await;
    node.renew(&lease).await.unwrap();
    until_tokens_are_over().await;
    let other = EtcdStore::new(user(etcd, "secret")).unwrap();
    let second = other.claim(&config(CONFIG), &claim(2)).await.unwrap();
    for events in [&mut old, &mut new] {
        let event = soon("an event", events.next()).await.unwrap().unwrap();
        assert_eq!(event, weft::model::lease::LeaseEvent::Put(second.clone()));
    }
    node.release(&lease).await.unwrap();
}

#[tokio::test]
async fn a_simple_token_that_ran_out_is_replaced() {
    let etcd = Etcd::start_with(&["--auth-token-ttl=1".to_owned()], "http").await;
    goes_on_without_a_token(&etcd).await;
}

/// A server whose tokens are signed, and cannot be told to be worthless before their time.
async fn signing(dir: &std::path::Path, ttl: &str) -> Etcd {
    for args in ["genrsa -out key 2048", "rsa -in key -pubout -out public"] {
        let made = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(dir)
            .output();
        let made = made.expect("the test of JWT needs the openssl program");
        assert!(made.status.success(), "{made:?}");
    }
    let path = |name: &str| dir.join(name).display().to_string();
    let token = format!(
        "--auth-token=jwt,pub-key={},priv-key={},sign-method=RS256,ttl={ttl}",
        path("public"),
        path("key")
    );
    Etcd::start_with(&[token], "http").await
}

#[tokio::test]
async fn a_jwt_that_ran_out_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    goes_on_without_a_token(&signing(dir.path(), "1s").await).await;
}

/// The store's users changed since the token was made, which makes it worthless with a code of
/// its own that the client does not know.
#[tokio::test]
async fn a_jwt_from_before_a_change_of_users_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = signing(dir.path(), "1h").await;
    let mut root = with_users(&etcd).await;
    let node = EtcdStore::new(user(&etcd, "secret")).unwrap();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    root.user_add("somebody", "else", None).await.unwrap();
    node.renew(&lease).await.unwrap();
    let start = node.snapshot().await.unwrap().position();
    drop(node.watch(start).await.unwrap());
}

#[tokio::test]
async fn a_changed_password_and_role_are_named_and_followed() {
    let etcd = Etcd::start().await;
    let mut root = with_users(&etcd).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let from_file = EtcdConfig {
        username: Some("weft".to_owned()),
        password_file: Some(file.clone()),
        ..etcd.config()
    };
    let node = EtcdStore::new(from_file).unwrap();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();

    root.user_change_password("weft", "changed").await.unwrap();
    let error = node.renew(&lease).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused { why } if why.contains("--etcd-password-file")),
        "{error}"
    );
    std::fs::write(&file, "changed\n").unwrap();
    node.renew(&lease).await.unwrap();

    root.user_revoke_role("weft", "weft").await.unwrap();
    for error in [
        node.snapshot().await.err().unwrap(),
        node.watch(Position::default()).await.err().unwrap(),
    ] {
        assert!(
            matches!(&error, StoreError::Refused { why } if why.contains("grant-permission")),
            "{error}"
        );
    }
    root.user_grant_role("weft", "weft").await.unwrap();
    node.renew(&lease).await.unwrap();
    assert_eq!(node.snapshot().await.unwrap().leases.len(), 1);
}

#[tokio::test]
async fn authentication_and_roles_are_told_apart_from_absence() {
    let etcd = Etcd::start().await;
    let _root = with_users(&etcd).await;
    let anonymous = etcd.node().snapshot().await.unwrap_err();
    assert!(
        matches!(anonymous, StoreError::Refused { .. }),
        "{anonymous}"
    );
    let error = EtcdStore::new(user(&etcd, "wrong"))
        .unwrap()
        .snapshot()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused { why } if why.contains("--etcd-password")),
        "{error}"
    );
    assert!(!error.to_string().contains("wrong"), "{error}");
    EtcdStore::new(user(&etcd, "secret"))
        .unwrap()
        .network()
        .await
        .unwrap();
}

/// A watch does not notice, and nothing is due to be renewed.
#[tokio::test]
async fn who_is_not_let_in_any_more_is_told_so() {
    let etcd = Etcd::start().await;
    let mut root = with_users(&etcd).await;
    let tuning = Tuning {
        ttl: Duration::from_secs(15),
        ..Tuning::default()
    };
    let node = Arc::new(EtcdStore::with_tuning(user(&etcd, "secret"), tuning).unwrap());
    let start = node.snapshot().await.unwrap().position();
    let _events = node.watch(start).await.unwrap();
    let mut health = node.health();
    let keeping = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.keep_way().await }
    });
    root.user_revoke_role("weft", "weft").await.unwrap();
    soon("the refusal", async {
        let denied = |why: &String| why.contains("permission denied");
        let told = health.wait_for(|now| now.access.as_ref().is_some_and(denied));
        told.await.map(drop).unwrap();
    })
    .await;
    root.user_grant_role("weft", "weft").await.unwrap();
    soon("access again", async {
        let told = health.wait_for(|now| now.access.is_none());
        told.await.map(drop).unwrap();
    })
    .await;
    keeping.abort();
}
