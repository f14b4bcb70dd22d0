//! The command line as a whole.

use super::*;

fn run(args: &[&str], environment: &[(&str, &str)]) -> Result<RunArgs, clap::Error> {
    let args: Vec<&str> = ["weft", "run"].iter().chain(args).copied().collect();
    started(&args, environment)
}

fn started(args: &[&str], environment: &[(&str, &str)]) -> Result<RunArgs, clap::Error> {
    let found = |name: &str| {
        let mut pairs = environment.iter();
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    match parse(args.iter().map(OsString::from), found)?.verb {
        Verb::Run(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

fn said(args: &[&str], environment: &[(&str, &str)]) -> String {
    run(args, environment).unwrap_err().to_string()
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn flags_come_with_one_dash_or_two() {
    for args in [["-iface", "eth0"], ["--iface", "eth0"]] {
        assert_eq!(run(&args, &[]).unwrap().iface, ["eth0"]);
    }
    assert_eq!(
        run(&["-iface=eth0", "--iface=eth1"], &[]).unwrap().iface,
        ["eth0", "eth1"]
    );
    // Not the help of `-h`, and not a success.
    for flag in ["-nonsense", "-hosts", "--kube-subnet-mgr", "-v=10"] {
        let error = run(&[flag], &[]).unwrap_err();
        let args = ["weft", "run", flag].map(OsString::from);
        assert_eq!(usage_code(&error, &args), 64, "{flag}");
    }
    assert_eq!(
        run(&["-h"], &[]).unwrap_err().kind(),
        ErrorKind::DisplayHelp
    );
}

#[test]
fn flannelds_defaults_are_ours() {
    let args = run(&[], &[]).unwrap();
    assert_eq!(
        args.etcd.etcd_endpoints,
        "http://127.0.0.1:4001,http://127.0.0.1:2379"
    );
    assert_eq!(args.etcd.etcd_prefix, "/coreos.com/network");
    let files = [
        &args.etcd.etcd_keyfile,
        &args.etcd.etcd_certfile,
        &args.etcd.etcd_cafile,
    ];
    assert!(files.iter().all(|file| file.is_none()));
    assert!(args.etcd.etcd_username.is_none() && args.etcd.etcd_password.is_none());
    assert!(args.iface.is_empty() && args.iface_regex.is_empty());
    assert_eq!((args.iface_can_reach, args.public_ip), (None, None));
    assert_eq!(args.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(args.subnet_lease_renew_margin, 60);
    assert!(!args.ip_masq && !args.ip_masq_fully_random_disable);
    assert!(args.iptables_forward_rules && !args.ip_blackhole_route);
    assert_eq!(args.iptables_resync, 5);
    assert_eq!(args.healthz_ip.to_string(), "0.0.0.0");
    assert_eq!(args.healthz_port, 0);
}

/// A unit's own options stand behind those of the distribution's.
#[test]
fn of_a_flag_that_is_typed_twice_the_last_counts() {
    let args = run(
        &[
            "-etcd-prefix=/a",
            "--ip-masq",
            "-iface=eth0",
            "-healthz-port=1",
            "--etcd-prefix",
            "/b",
            "--ip-masq=false",
            "--iface=eth1",
            "--healthz-port=2",
        ],
        &[("FLANNELD_ETCD_PREFIX", "/c")],
    );
    let args = args.unwrap();
    assert_eq!(args.etcd.etcd_prefix, "/b");
    assert!(!args.ip_masq);
    assert_eq!(args.healthz_port, 2);
    assert_eq!(args.iface, ["eth0", "eth1"]);
    let words = ["weft", "docker-opts", "-i", "-f", "/a", "-i", "-f/b"];
    match parse(words.map(OsString::from), |_| None).unwrap().verb {
        Verb::DockerOpts(args) => assert_eq!(args.subnet_file, PathBuf::from("/b")),
        other => panic!("{other:?}"),
    }
    // An empty one is none, also after one that was not.
    let args = run(
        &[
            "--etcd-cafile=/ca",
            "--public-ip=192.0.2.7",
            "--etcd-cafile=",
        ],
        &[],
    );
    let args = args.unwrap();
    assert_eq!(args.etcd.etcd_cafile, None);
    assert_eq!(args.public_ip, Some([192, 0, 2, 7].into()));
}

#[test]
fn booleans_need_an_equals_sign_to_be_given_a_value() {
    assert!(!run(&[], &[]).unwrap().ip_masq);
    assert!(run(&["--ip-masq"], &[]).unwrap().ip_masq);
    assert!(!run(&["-ip-masq=false"], &[]).unwrap().ip_masq);
    assert!(!run(&["-ip-masq=0"], &[]).unwrap().ip_masq);
    assert!(run(&["-ip-masq=T"], &[]).unwrap().ip_masq);
    let without = run(&["--iptables-forward-rules=false"], &[]).unwrap();
    assert!(!without.iptables_forward_rules);
    // flanneld would ignore it, and all that follows.
    assert!(run(&["--ip-masq", "false"], &[]).is_err());
}

#[test]
fn a_value_may_look_like_a_flag() {
    let args = run(&["-etcd-username", "-x", "-ip-masq"], &[]).unwrap();
    assert_eq!(args.etcd.etcd_username.as_deref(), Some("-x"));
    assert!(args.ip_masq);
    assert!(said(&["--iface"], &[]).contains("--iface"));
}

#[test]
fn numbers_are_gos() {
    for (text, port) in [
        ("8081", 8081),
        ("0x1F91", 8081),
        ("0o17621", 8081),
        ("017621", 8081),
        ("0b11", 3),
        ("8_081", 8081),
        ("0", 0),
    ] {
        let args = run(&[&format!("--healthz-port={text}")], &[]).unwrap();
        assert_eq!(args.healthz_port, port, "{text}");
    }
    for text in [
        "", "-1", "+1", "x", "0x", "8_", "_8", "8__0", "65536", "1e3", "099",
    ] {
        assert!(
            run(&[&format!("--healthz-port={text}")], &[]).is_err(),
            "{text}"
        );
    }
    for text in ["0", "1440", "x"] {
        let flag = format!("--subnet-lease-renew-margin={text}");
        assert!(run(&[&flag], &[]).is_err(), "{flag}");
    }
    assert!(run(&["--iptables-resync=0"], &[]).is_err());
}

#[test]
fn the_environment_fills_what_was_not_typed_and_ours_wins() {
    let both = [
        ("FLANNELD_IFACE", "a"),
        ("WEFT_IFACE", "b"),
        ("FLANNELD_IP_MASQ", "true"),
        ("FLANNELD_ETCD_CAFILE", ""),
        ("FLANNELD_VERSION", "true"),
    ];
    let args = run(&[], &both).unwrap();
    assert_eq!((args.iface, args.ip_masq), (vec!["b".to_owned()], true));
    assert_eq!(args.etcd.etcd_cafile, None);
    assert_eq!(run(&["--iface=c"], &both).unwrap().iface, ["c"]);
    // One entry, commas or not.
    let args = run(&[], &[("FLANNELD_IFACE", "a,b")]).unwrap();
    assert_eq!(args.iface, ["a,b"]);
    let args = run(&["-lease-ttl=15s"], &[("WEFT_ON_SUBNET_LOST", "renumber")]).unwrap();
    assert_eq!(args.lease.lease_ttl.as_secs(), 15);
    assert_eq!(args.lease.on_subnet_lost, OnSubnetLost::Renumber);
    assert!(run(&[], &[("WEFT_LEASE_TTL", "1s")]).is_err());
}

#[test]
fn what_a_variable_says_wrongly_is_told_by_its_name() {
    for (variable, value, flag) in [
        ("FLANNELD_IP_MASQ", "perhaps", "--ip-masq"),
        ("WEFT_HEALTHZ_PORT", "many", "--healthz-port"),
        ("FLANNELD_PUBLIC_IP", "fd00::1", "--public-ip"),
        (
            "FLANNELD_SUBNET_LEASE_RENEW_MARGIN",
            "0",
            "--subnet-lease-renew-margin",
        ),
    ] {
        let why = said(&[], &[(variable, value)]);
        assert!(
            why.contains(variable) && why.contains(value) && why.contains(flag),
            "{why}"
        );
    }
    // What is typed is not the variable's fault.
    let why = said(&["--healthz-port=many"], &[("FLANNELD_IP_MASQ", "true")]);
    assert!(!why.contains("environment"), "{why}");
}

#[test]
fn an_empty_value_is_none() {
    let empty = [
        "--etcd-cafile=",
        "--etcd-username=",
        "-etcd-certfile",
        "",
        "--public-ip=",
        "--iface-can-reach=",
    ];
    let args = run(&empty, &[("FLANNELD_PUBLIC_IP", "192.0.2.7")]).unwrap();
    assert_eq!(
        (args.etcd.etcd_cafile, args.etcd.etcd_username),
        (None, None)
    );
    assert_eq!(
        (args.etcd.etcd_certfile, args.iface_can_reach),
        (None, None)
    );
    // It was typed, so that the variable is not asked.
    assert_eq!(args.public_ip, None);
}

#[test]
fn what_only_flanneld_has_is_told_by_its_name() {
    for (flag, remedy) in [
        ("--kube-subnet-mgr", "etcd"),
        ("-kube-api-url=https://192.0.2.1", "etcd"),
        ("--net-config-path=/etc/net.json", "etcd"),
        ("--public-ipv6=fd00::1", "IPv6"),
        ("-v=10", "--log"),
        ("--vmodule=vxlan=4", "--log"),
    ] {
        let why = said(&[flag], &[]);
        let name = flag.trim_start_matches('-').split('=').next().unwrap();
        assert!(
            why.contains(&format!("--{name}")) && why.contains(remedy),
            "{why}"
        );
    }
    let why = said(&[], &[("FLANNELD_KUBE_SUBNET_MGR", "true")]);
    assert!(why.contains("FLANNELD_KUBE_SUBNET_MGR"), "{why}");
    // What asks for nothing is no reason to refuse.
    let nothing = [
        "--kube-subnet-mgr=false",
        "-v",
        "0",
        "--public-ipv6=",
        "--set-node-network-unavailable",
        "--net-config-path=/etc/kube-flannel/net-conf.json",
    ];
    assert!(run(&nothing, &[("FLANNELD_V", "0")]).is_ok());
}

/// flanneld's own list: each is known, or refused by its name. None comes as a surprise.
#[test]
fn all_of_flannelds_flags_are_known_by_name_and_as_variables() {
    let kinds: [(&[&str], &str); 7] = [
        (
            &["etcd-endpoints", "etcd-prefix", "iface", "iface-regex"],
            "x",
        ),
        (&["etcd-keyfile", "etcd-certfile", "etcd-cafile"], "/x"),
        (&["etcd-username", "etcd-password", "subnet-file"], "/x"),
        (&["iface-can-reach", "public-ip", "healthz-ip"], "192.0.2.7"),
        (
            &[
                "subnet-lease-renew-margin",
                "iptables-resync",
                "healthz-port",
            ],
            "0x10",
        ),
        (
            &[
                "ip-masq",
                "ip-masq-fully-random-disable",
                "ip-blackhole-route",
            ],
            "true",
        ),
        (&["iptables-forward-rules"], "false"),
    ];
    let bare = format!("{:?}", run(&[], &[]).unwrap());
    let variable = |flag: &str| format!("FLANNELD_{}", flag.to_uppercase().replace('-', "_"));
    for (flags, value) in kinds {
        for flag in flags {
            let typed = run(&[&format!("-{flag}={value}")], &[]).unwrap();
            let set = run(&[], &[(&variable(flag), value)]).unwrap();
            assert_ne!(format!("{typed:?}"), bare, "--{flag} changes nothing");
            assert_eq!(format!("{typed:?}"), format!("{set:?}"), "{flag}");
        }
    }
    for flag in [
        "kube-subnet-mgr",
        "kube-api-url",
        "kube-annotation-prefix",
        "kubeconfig-file",
        "net-config-path",
        "set-node-network-unavailable",
        "public-ipv6",
        "v",
        "vmodule",
        "log_backtrace_at",
    ] {
        // Truth values differ from their defaults, and so do all others.
        let value = match flag {
            "kube-subnet-mgr" => "true",
            "set-node-network-unavailable" => "false",
            _ => "5",
        };
        let typed = said(&[&format!("-{flag}={value}")], &[]);
        let variable = variable(flag);
        let set = said(&[], &[(&variable, value)]);
        for (why, name) in [(&typed, format!("--{flag}")), (&set, variable)] {
            assert!(
                why.contains(&format!("`{name}` is known to flanneld")),
                "{why}"
            );
        }
    }
}

#[test]
fn an_unknown_flag_is_told_with_the_nearest() {
    let why = said(&["--etcd-endpoint=http://192.0.2.1:2379"], &[]);
    assert!(
        why.contains("--etcd-endpoint") && why.contains("--etcd-endpoints"),
        "{why}"
    );
    let why = said(&["-iface-regexp=eth.*"], &[]);
    assert!(why.contains("'--iface-regex'"), "{why}");
}

#[test]
fn the_version_is_printed_whatever_else_is_typed() {
    for args in [
        &["--version"][..],
        &["-version"],
        &["-ip-masq", "--version=true", "-nonsense"],
    ] {
        let error = run(args, &[("FLANNELD_IP_MASQ", "perhaps")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayVersion);
    }
}

#[test]
fn flanneld_is_weft_run() {
    let args = started(&["/opt/bin/flanneld", "-iface", "eth7"], &[]).unwrap();
    assert_eq!(args.iface, ["eth7"]);
    let error = started(&["flanneld", "status"], &[]).unwrap_err();
    let words = ["flanneld", "status"].map(OsString::from);
    assert_eq!(usage_code(&error, &words), 64);
    assert!(parse(["weft", "status"].map(OsString::from), |_| None).is_ok());
}

/// What is left of a command line, and the password.
fn hidden(words: &[&str]) -> Option<(Vec<String>, String)> {
    let args: Vec<OsString> = words.iter().map(OsString::from).collect();
    let hidden = hide_password(&args)?;
    assert_eq!(hidden.variable, "WEFT_ETCD_PASSWORD");
    let text = |word: OsString| word.into_string().unwrap();
    let args = hidden.args.into_iter().map(text).collect();
    Some((args, text(hidden.value)))
}

#[test]
fn a_typed_password_is_taken_off_the_command_line() {
    let left = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (words, rest, password) in [
        (
            &["weft", "run", "--etcd-password=a=b", "--iface", "eth0"][..],
            &["weft", "run", "--iface", "eth0"][..],
            "a=b",
        ),
        (
            &["weft", "run", "-etcd-username=u", "-etcd-password", "--x"],
            &["weft", "run", "-etcd-username=u"],
            "--x",
        ),
        (
            &["/opt/flanneld", "-etcd-password", "s", "-ip-masq"],
            &["/opt/flanneld", "-ip-masq"],
            "s",
        ),
        (
            &["weft", "cleanup", "--release", "--etcd-password=s"],
            &["weft", "cleanup", "--release"],
            "s",
        ),
    ] {
        assert_eq!(hidden(words), Some((left(rest), password.to_owned())));
    }
    for words in [
        &["weft"][..],
        &["weft", "run"],
        &["weft", "run", "--etcd-password="],
        &["weft", "run", "--etcd-password-file=/etc/secret"],
        // The prefix is what looks like a password here.
        &["weft", "run", "--etcd-prefix", "--etcd-password=s"],
        &["weft", "status", "--etcd-password=s"],
    ] {
        assert_eq!(hidden(words), None, "{words:?}");
    }
}
