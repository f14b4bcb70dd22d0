//! Files that change, and files that are being written.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use super::*;

struct Files {
    dir: TempDir,
    credentials: Credentials,
}

impl Files {
    /// A CA, a certificate with its key, and a password.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        let config = EtcdConfig {
            cafile: path("ca.pem"),
            certfile: path("cert.pem"),
            keyfile: path("key.pem"),
            password_file: path("password"),
            ..EtcdConfig::default()
        };
        let files = Self {
            credentials: Credentials::new(&config),
            dir,
        };
        let (cert, key) = pair();
        files.write("ca.pem", &cert);
        files.write("cert.pem", &cert);
        files.write("key.pem", &key);
        files.write("password", "hunter2\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        // A new file in its place, as those who write certificates should do it.
        let draft = self.dir.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.dir.path().join(name)).unwrap();
    }

    fn password(&self) -> String {
        let loaded = self.credentials.look().unwrap();
        loaded.password.as_ref().unwrap().expose_secret().to_owned()
    }

    fn generation(&self) -> u64 {
        self.credentials.look().unwrap().generation
    }
}

fn pair() -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

#[test]
fn files_are_read_again_when_they_change() {
    let files = Files::new();
    assert_eq!(
        (files.password(), files.generation()),
        ("hunter2".into(), 0)
    );
    files.write("password", "hunter3\n");
    assert_eq!(
        (files.password(), files.generation()),
        ("hunter3".into(), 1)
    );
    // Written anew with the same words: nothing to connect anew for.
    files.write("password", "hunter3\n");
    assert_eq!(files.generation(), 1);
    let (cert, key) = pair();
    files.write("key.pem", &key);
    files.write("cert.pem", &cert);
    assert_eq!(files.generation(), 2);
}

#[test]
fn half_written_files_replace_nothing_and_are_named() {
    let files = Files::new();
    let before = files.credentials.look().unwrap();
    let (cert, key) = pair();
    let half = |text: &str| text.get(..text.len() / 2).unwrap().to_owned();
    let cases = [
        ("cert.pem", half(&cert), "cert.pem"),
        ("cert.pem", String::new(), "cert.pem"),
        // The other half is still the old one.
        ("cert.pem", cert.clone(), "do not belong together"),
        ("key.pem", half(&key), "key.pem"),
        (
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            "ca.pem",
        ),
        ("password", "\n".to_owned(), "password"),
    ];
    for (name, text, said) in cases {
        let path = files.dir.path().join(name);
        let good = fs::read_to_string(&path).unwrap();
        files.write(name, &text);
        assert_eq!(files.credentials.look().unwrap().generation, 0, "{name}");
        let wrong = files.credentials.wrong().unwrap();
        assert!(wrong.contains(said), "{wrong}");
        assert!(!wrong.contains("PRIVATE"), "{wrong}");
        files.write(name, &good);
        files.credentials.look().unwrap();
        assert_eq!(files.credentials.wrong(), None, "{name}");
    }
    fs::remove_file(files.dir.path().join("key.pem")).unwrap();
    let after = files.credentials.look().unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    assert!(files.credentials.wrong().unwrap().contains("key.pem"));
    files.write("cert.pem", &cert);
    files.write("key.pem", &key);
    assert_eq!(files.generation(), 1);
    assert_eq!(files.credentials.wrong(), None);
}

#[test]
fn at_the_start_what_is_wrong_is_an_error() {
    for (name, text) in [
        ("ca.pem", None),
        ("ca.pem", Some("no certificate")),
        ("cert.pem", None),
        ("key.pem", Some("no key")),
        ("password", Some("")),
    ] {
        let files = Files::new();
        match text {
            Some(text) => files.write(name, text),
            None => fs::remove_file(files.dir.path().join(name)).unwrap(),
        }
        let why = files.credentials.look().unwrap_err();
        assert!(why.contains(name), "{why}");
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let files = Files::new();
    let path = files.dir.path().join("password");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let why = files.credentials.look().unwrap_err();
    assert!(why.contains("it is no file"), "{why}");
}

#[test]
fn secrets_are_not_printed() {
    let files = Files::new();
    let printed = format!("{:?}", files.credentials.look().unwrap());
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_eq!(printed.matches("REDACTED").count(), 2, "{printed}");
}
