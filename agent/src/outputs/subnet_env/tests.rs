//! Exact bytes, modes, and what may be found in the place of the file.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

const TEXT: &str = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn env() -> SubnetEnv {
    SubnetEnv {
        network: "10.42.0.0/16".parse().unwrap(),
        subnet: "10.42.7.0/24".parse().unwrap(),
        mtu: Mtu::try_from(1450).unwrap(),
        ip_masq: true,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn previous(text: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subnet.env");
    fs::write(&path, text).unwrap();
    read_previous(&path).map(|subnet| subnet.to_string())
}

#[test]
fn the_text_is_flannels_and_comes_back() {
    assert_eq!(env().text(), TEXT);
    assert_eq!(SubnetEnv::parse(TEXT).unwrap(), env());
    let dual = TEXT.replace(
        "FLANNEL_MTU",
        "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\nFLANNEL_MTU",
    );
    assert_eq!(SubnetEnv::parse(&dual).unwrap(), env());
    for (from, to, why) in [
        ("FLANNEL_SUBNET=", "X=", "`FLANNEL_SUBNET` is missing"),
        ("=true", "=yes", "it must be true or false"),
        ("1450", "100", "a number from 576"),
        ("10.42.7.1/24", "10.42.7.1", "an IPv4 range"),
    ] {
        let error = SubnetEnv::parse(&TEXT.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn the_file_is_put_in_place_whole_and_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/flannel/subnet.env");
    env().write(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o644, 0o755));
    assert_eq!(mode(&dir.path().join("run")), 0o755);

    // A closed file, a draft of a crash, and a draft that is a link to somewhere else.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let draft = path.with_file_name(".subnet.env");
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, "untouched").unwrap();
    symlink(&elsewhere, &draft).unwrap();
    let other = SubnetEnv {
        ip_masq: false,
        ..env()
    };
    other.write(&path).unwrap();
    assert_eq!(SubnetEnv::read(&path).unwrap(), other);
    assert_eq!(mode(&path), 0o644);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(read_previous(&path).unwrap().to_string(), "10.42.7.0/24");
}

#[test]
fn a_place_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(env().write(&dir.path().join("file/subnet.env")).is_err());
    fs::create_dir(dir.path().join("subnet.env")).unwrap();
    assert!(env().write(&dir.path().join("subnet.env")).is_err());
    assert!(env().write(Path::new("/")).is_err());
}

#[test]
fn the_previous_subnet_is_found_as_flannel_finds_it() {
    let found = Some("10.42.7.0/24".to_owned());
    for text in [
        TEXT,
        "FLANNEL_SUBNET=10.42.7.1/24",
        "export FLANNEL_SUBNET=\"10.42.7.1/24\"\r\nX=1\r\n",
        "  FLANNEL_SUBNET = '10.42.7.9/24' # ours\n",
        "FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET=10.42.7.1/24\n",
        "# comment\n\nnot a line\nFLANNEL_SUBNET=nonsense,10.42.7.1/24\n",
    ] {
        assert_eq!(previous(text), found, "{text}");
    }
    for text in [
        "",
        "FLANNEL_SUBNET=",
        "FLANNEL_SUBNET=10.42.7.1",
        "FLANNEL_SUBNET=10.42.7.1/33",
        "FLANNEL_SUBNET=fd00::1/64",
        "FLANNEL_SUBNET=10.42.7.1/24,10.42.8.1/24",
        "#FLANNEL_SUBNET=10.42.7.1/24",
        "FLANNEL_IPV6_SUBNET=10.42.7.1/24",
    ] {
        assert_eq!(previous(text), None, "{text}");
    }
    let huge = format!("{}{TEXT}", "#\n".repeat(40_000));
    assert_eq!(previous(&huge), None);
}

#[test]
fn no_file_and_no_regular_file_are_no_subnet() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read_previous(dir.path()), None);
    assert_eq!(read_previous(&dir.path().join("none")), None);
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(read_previous(&fifo), None);
    let bytes = dir.path().join("bytes");
    fs::write(&bytes, b"FLANNEL_SUBNET=\xff").unwrap();
    assert_eq!(read_previous(&bytes), None);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}", lines in "[A-Z_='\"# ./0-9\n]{0,100}") {
        let _ = SubnetEnv::parse(&text);
        let _ = variables(&lines);
    }
}
