//! The tables of flannel's documentation and code, and what must be refused.

use proptest::prelude::*;

use super::*;

const BACKEND: &str = r#""Backend":{"Type":"vxlan"}"#;

fn parse(members: &str) -> Result<NetworkConfig, ConfigError> {
    NetworkConfig::parse(&format!("{{{members}}}"))
}

fn with(members: &str) -> Result<NetworkConfig, ConfigError> {
    parse(&format!("{members},{BACKEND}"))
}

fn vxlan(members: &str) -> Result<NetworkConfig, ConfigError> {
    parse(&format!(
        r#""Network":"10.3.0.0/16","Backend":{{"Type":"vxlan",{members}}}"#
    ))
}

#[test]
fn lengths_and_limits_are_computed() {
    for (network, len, min, max) in [
        ("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0"),
        ("10.3.4.5/16", 24, "10.3.1.0", "10.3.255.0"),
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.0.0.0/22", 24, "10.0.1.0", "10.0.3.0"),
        ("10.0.0.0/23", 25, "10.0.0.128", "10.0.1.128"),
        ("10.0.0.0/28", 30, "10.0.0.4", "10.0.0.12"),
        ("128.0.0.0/1", 24, "128.0.1.0", "255.255.255.0"),
    ] {
        let config = with(&format!(r#""Network":"{network}""#)).unwrap();
        assert_eq!(config.subnet_len, len, "{network}");
        assert_eq!(config.subnet_min.to_string(), format!("{min}/{len}"));
        assert_eq!(config.subnet_max.to_string(), format!("{max}/{len}"));
        assert_eq!(config.network, config.network.trunc());
    }
    assert_eq!(
        with(r#""Network":"10.0.0.0/29""#).unwrap_err().to_string(),
        "`Network` is 10.0.0.0/29, which is too small: use a /28 or larger"
    );
}

#[test]
fn everything_set_is_taken() {
    let config = NetworkConfig::parse(
        r#"{"network":"10.0.0.0/8","SUBNETLEN":20,"subnetMin":"10.10.0.0","SubnetMax":"10.99.0.0",
            "enableNFTables":true,"unknown":[1],"EnableIPv4":true,"EnableIPv6":false,
            "backend":{"type":"VXLAN","vni":7,"port":4789,"mtu":1600,"gbp":true,"learning":true,
            "directRouting":true,"MacPrefix":"0E-2A"}}"#,
    )
    .unwrap();
    assert_eq!(config.subnet_len, 20);
    assert_eq!(config.subnet_min.to_string(), "10.10.0.0/20");
    assert_eq!(config.subnet_max.to_string(), "10.99.0.0/20");
    assert_eq!(config.vni.get(), 7);
    assert_eq!(config.port, 4789);
    assert_eq!(config.underlay_mtu.map(Mtu::get), Some(1600));
    assert!(config.gbp && config.learning && config.direct_routing && config.nftables);
}

#[test]
fn absent_members_have_flannels_defaults() {
    let unset = r#""Network":"10.3.0.0/16","SubnetLen":0,"SubnetMin":"0.0.0.0","SubnetMax":null"#;
    let config = with(unset).unwrap();
    assert_eq!(config, with(r#""Network":"10.3.0.0/16""#).unwrap());
    assert_eq!(config, vxlan(r#""VNI":1,"Port":0,"MTU":0"#).unwrap());
    assert_eq!((config.vni.get(), config.port), (1, 8472));
    assert_eq!(config.underlay_mtu, None);
    assert!(!(config.gbp || config.learning || config.direct_routing || config.nftables));
}

#[test]
fn bad_ranges_are_refused_in_flannels_order() {
    let network = r#""Network":"10.3.0.0/16""#;
    for (members, why) in [
        (r#""SubnetLen":24"#.to_owned(), "`Network` is missing"),
        (
            r#""Network":"0.0.0.0/0""#.to_owned(),
            "`Network` is missing",
        ),
        (r#""Network":"fc00::/48""#.to_owned(), "not an IPv4 range"),
        (r#""Network":"10.3.0.0""#.to_owned(), "not an IPv4 range"),
        (r#""Network":5"#.to_owned(), "must be a string"),
        (format!(r#"{network},"SubnetLen":31"#), "less than /31"),
        (format!(r#"{network},"SubnetLen":17"#), "use at least 18"),
        (format!(r#"{network},"SubnetLen":-1"#), "a whole number"),
        (format!(r#"{network},"SubnetLen":"24""#), "a whole number"),
        (format!(r#"{network},"SubnetMin":"10.4.0.0""#), "outside"),
        (format!(r#"{network},"SubnetMax":"10.4.0.0""#), "outside"),
        (
            format!(r#"{network},"SubnetMax":"x""#),
            "not an IPv4 address",
        ),
        (
            format!(r#"{network},"SubnetMin":"10.3.1.1""#),
            "/24 boundary",
        ),
        (
            format!(r#"{network},"SubnetMax":"10.3.9.128""#),
            "/24 boundary",
        ),
        (
            format!(r#"{network},"SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0""#),
            "is after",
        ),
        (
            format!(r#"{network},"EnableIPv6":true"#),
            "not supported yet",
        ),
        (format!(r#"{network},"EnableIPv4":false"#), "only IPv4"),
        (format!(r#"{network},"EnableIPv4":"no""#), "true or false"),
    ] {
        let error = with(&members).unwrap_err().to_string();
        assert!(error.contains(why), "{members}: {error}");
    }
    // A length that is wrong twice over is told of first by the first check.
    let error = with(r#""Network":"10.3.0.0/16","SubnetLen":99,"SubnetMin":"1.1.1.1""#);
    assert_eq!(error, Err(ConfigError::SubnetTooSmall(99)));
}

#[test]
fn other_backends_are_refused_by_name() {
    let network = r#""Network":"10.3.0.0/16""#;
    assert_eq!(parse(network), Err(ConfigError::NoBackend));
    for (backend, why) in [
        (r#"{}"#, "the type \"\""),
        (r#"{"Type":"host-gw"}"#, "the type \"host-gw\""),
        (r#"{"Type":7}"#, "must be a string"),
        (r#""vxlan""#, "must be an object"),
        (
            r#"null"#,
            "is missing, which flannel's code takes as \"udp\"",
        ),
    ] {
        let error = parse(&format!(r#"{network},"Backend":{backend}"#));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(why), "{backend}: {error}");
    }
}

#[test]
fn numbers_of_the_backend_are_bounded() {
    for good in [
        r#""VNI":0"#,
        r#""VNI":16777215"#,
        r#""Port":65535"#,
        r#""MTU":626"#,
        r#""MTU":65535"#,
    ] {
        assert!(vxlan(good).is_ok(), "{good}");
    }
    for bad in [
        r#""VNI":16777216"#,
        r#""VNI":-1"#,
        r#""VNI":"1""#,
        r#""Port":65536"#,
        r#""MTU":625"#,
        r#""MTU":65536"#,
        r#""MTU":18446744073709551616"#,
        r#""GBP":1"#,
    ] {
        assert!(vxlan(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = NetworkConfig::parse(&text);
    }

    #[test]
    fn no_numbers_panic(
        addr: u32, prefix in 0_u8..40, len in 0_u64..40, min: u32, max: u32, vni: u64, port: u64, mtu: u64,
    ) {
        let (addr, min, max) = (Ipv4Addr::from(addr), Ipv4Addr::from(min), Ipv4Addr::from(max));
        let text = format!(
            r#"{{"Network":"{addr}/{prefix}","SubnetLen":{len},"SubnetMin":"{min}","SubnetMax":"{max}",
                "Backend":{{"Type":"vxlan","VNI":{vni},"Port":{port},"MTU":{mtu}}}}}"#
        );
        let _ = NetworkConfig::parse(&text);
    }

    #[test]
    fn computed_limits_lie_within(addr: u32, prefix in 1_u8..29, len in 0_u64..31) {
        let addr = Ipv4Addr::from(addr);
        let text = format!(r#""Network":"{addr}/{prefix}","SubnetLen":{len}"#);
        if let Ok(config) = with(&text) {
            let (min, max) = (config.subnet_min.v4().unwrap(), config.subnet_max.v4().unwrap());
            prop_assert!(config.network.contains(&min) && config.network.contains(&max));
            prop_assert!(min <= max);
            prop_assert_eq!(min.prefix_len(), config.subnet_len);
        }
    }
}
