//! What is refused, and what is never printed.

use super::*;

fn config(endpoint: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: vec![endpoint.to_owned()],
        ..EtcdConfig::default()
    }
}

#[test]
fn what_cannot_work_is_refused_with_the_remedy() {
    let with_ca = EtcdConfig {
        cafile: Some("/ca".into()),
        ..config("http://127.0.0.1:2379")
    };
    let mixed = EtcdConfig {
        endpoints: vec!["https://a:2379".to_owned(), "http://b:2379".to_owned()],
        ..EtcdConfig::default()
    };
    let no_key = EtcdConfig {
        certfile: Some("/cert".into()),
        ..config("https://127.0.0.1:2379")
    };
    let no_user = EtcdConfig {
        password: Some("secret".into()),
        ..config("https://127.0.0.1:2379")
    };
    let no_user_for_file = EtcdConfig {
        password_file: Some("/password".into()),
        ..config("https://127.0.0.1:2379")
    };
    let name_without_tls = EtcdConfig {
        server_name: Some("etcd".into()),
        ..config("http://127.0.0.1:2379")
    };
    for (config, remedy) in [
        (EtcdConfig::default(), "--etcd-endpoints"),
        (config(" "), "--etcd-endpoints"),
        (config("unix:///run/etcd"), "must start with"),
        (with_ca, "write https://"),
        (mixed, "write https:// for all"),
        (no_key, "--etcd-keyfile"),
        (no_user, "--etcd-username"),
        (no_user_for_file, "--etcd-username"),
        (name_without_tls, "--etcd-server-name"),
    ] {
        let why = config.completed().unwrap_err();
        assert!(why.contains(remedy), "{why}");
    }
}

#[test]
fn a_missing_scheme_is_the_one_that_the_files_mean() {
    let plain = config(" 127.0.0.1:2379/").completed().unwrap();
    assert_eq!(plain.endpoints, ["http://127.0.0.1:2379"]);
    let with_ca = EtcdConfig {
        cafile: Some("/ca".into()),
        ..config("127.0.0.1:2379")
    };
    assert_eq!(
        with_ca.completed().unwrap().endpoints,
        ["https://127.0.0.1:2379"]
    );
}

#[test]
fn the_password_is_not_printed() {
    let config = EtcdConfig {
        password: Some("hunter2".into()),
        ..config("http://127.0.0.1:2379")
    };
    assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
}
