//! The value of a lease's key, byte for byte as flannel writes it, read as tolerantly as Go does.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{
    json::{Object, TypeError, short},
    lease::{Backend, LeaseAttrs},
    net::{Mac, NetError, Vni},
};

/// The longest value that is read. A lease takes about 150 bytes.
const MAX_VALUE: usize = 16 * 1024;

/// Why a value is no lease's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Longer than any lease.
    #[error("the value is {0} bytes long, a lease has at most {MAX_VALUE}")]
    TooLong(usize),
    /// Not a JSON object.
    #[error("the value is not a JSON object: {0}")]
    Json(String),
    /// A member of the wrong type.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A member that must be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A text that is no IPv4 address.
    #[error("`PublicIP` is \"{0}\", which is not an IPv4 address")]
    PublicIp(String),
    /// An address that no packet can be sent to.
    #[error("`PublicIP` is {0}, which cannot be a node's address")]
    Unusable(Ipv4Addr),
    /// A node without an IPv4 address.
    #[error("the node's address {0} is IPv6, which is not supported yet")]
    Ipv6(IpAddr),
    /// A VNI or MAC that is none.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// The value that says `attrs`.
pub fn encode(attrs: &LeaseAttrs) -> Result<Vec<u8>, ValueError> {
    let LeaseAttrs { public_ip, backend } = attrs;
    let IpAddr::V4(public_ip) = *public_ip else {
        return Err(ValueError::Ipv6(*public_ip));
    };
    check(public_ip)?;
    let rest = match backend {
        Backend::Vxlan { vni, vtep_mac } => format!(
            r#","BackendType":"vxlan","BackendData":{{"VNI":{vni},"VtepMAC":"{vtep_mac}"}}"#
        ),
        Backend::Other(kind) if kind.is_empty() => String::new(),
        Backend::Other(kind) => {
            let kind = serde_json::Value::from(kind.as_str());
            format!(r#","BackendType":{kind}"#)
        }
    };
    Ok(format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null{rest}}}"#).into_bytes())
}

/// What a value says. Only the IPv4 half of a dual-stack lease is read.
pub fn decode(value: &[u8]) -> Result<LeaseAttrs, ValueError> {
    if value.len() > MAX_VALUE {
        return Err(ValueError::TooLong(value.len()));
    }
    let text = std::str::from_utf8(value).map_err(|e| ValueError::Json(e.to_string()))?;
    let top = Object::parse(text).map_err(|e| ValueError::Json(e.to_string()))?;
    if !top.has("PublicIP") {
        return Err(ValueError::Missing("PublicIP"));
    }
    let public_ip = top.text("PublicIP")?;
    let public_ip = public_ip
        .parse()
        .map_err(|_not_an_address| ValueError::PublicIp(short(public_ip)))?;
    check(public_ip)?;
    let backend = match top.text("BackendType")? {
        "vxlan" => {
            let data = top
                .object("BackendData")?
                .ok_or(ValueError::Missing("BackendData"))?;
            if !data.has("VtepMAC") {
                return Err(ValueError::Missing("VtepMAC"));
            }
            Backend::Vxlan {
                // Go reads an absent number as 0, and no reader compares this one.
                vni: Vni::try_from(data.number("VNI", 0)?)?,
                vtep_mac: vtep_mac(data.text("VtepMAC")?)?,
            }
        }
        other => Backend::Other(other.to_owned()),
    };
    Ok(LeaseAttrs {
        public_ip: IpAddr::V4(public_ip),
        backend,
    })
}

/// Refuses what would make a node send its tunnel packets to itself or to everybody.
fn check(addr: Ipv4Addr) -> Result<(), ValueError> {
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || addr.is_broadcast() {
        Err(ValueError::Unusable(addr))
    } else {
        Ok(())
    }
}

fn vtep_mac(text: &str) -> Result<Mac, NetError> {
    text.parse().map_err(|error| match error {
        NetError::Mac(text) => NetError::Mac(short(&text)),
        other @ (NetError::Vni(_)
        | NetError::HostBits(_)
        | NetError::Mtu(_)
        | NetError::IfIndex) => other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<LeaseAttrs, ValueError> {
        decode(text.as_bytes())
    }

    fn vxlan() -> LeaseAttrs {
        LeaseAttrs {
            public_ip: Ipv4Addr::new(192, 168, 64, 3).into(),
            backend: Backend::Vxlan {
                vni: Vni::try_from(1).unwrap(),
                vtep_mac: "c6:d2:32:6f:8f:44".parse().unwrap(),
            },
        }
    }

    #[test]
    fn values_are_flannels_byte_for_byte() {
        let bytes = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
        assert_eq!(encode(&vxlan()).unwrap(), bytes.as_bytes());
        assert_eq!(read(bytes), Ok(vxlan()));
        let bare = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#;
        let attrs = read(bare).unwrap();
        assert_eq!(attrs.backend, Backend::Other(String::new()));
        assert_eq!(encode(&attrs).unwrap(), bare.as_bytes());
    }

    #[test]
    fn order_case_and_unknown_members_do_not_matter() {
        for text in [
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"9e:11:22:33:44:55"}}"#,
            r#"{"backenddata":{"vtepmac":"C6-D2-32-6F-8F-44","vni":1,"x":[]},"backendType":"vxlan","publicip":"192.168.64.3"}"#,
            r#" {"BackendData":{"VtepMAC":"c6d2.326f.8f44","VNI":1},"PublicIP":"9.9.9.9","PUBLICIP":"192.168.64.3","BackendType":"vxlan","New":{}} "#,
        ] {
            assert_eq!(read(text), Ok(vxlan()), "{text}");
        }
    }

    #[test]
    fn other_backends_keep_their_name_whatever_their_data() {
        for (text, kind) in [
            (
                r#"{"PublicIP":"1.2.3.4","BackendType":"wireguard","BackendData":{"PublicKey":"k"}}"#,
                "wireguard",
            ),
            (
                r#"{"PublicIP":"1.2.3.4","BackendType":"VXLAN","BackendData":7}"#,
                "VXLAN",
            ),
        ] {
            assert_eq!(read(text).unwrap().backend, Backend::Other(kind.to_owned()));
        }
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        let data = r#""BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#;
        for addr in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "fd00::3",
            "1.2.3",
            "",
        ] {
            let text = format!(r#"{{"PublicIP":"{addr}",{data}}}"#);
            assert!(read(&text).is_err(), "{text}");
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"PublicIP":null}"#,
            r#"{"PublicIP":16909060}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":null} x"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":7}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":"vxlan"}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":"x"}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f"}}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VNI":2147483648,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
            r#"{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VNI":"1","VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let long = format!(
            r#"{{"PublicIP":"1.2.3.4","x":"{}"}}"#,
            "x".repeat(MAX_VALUE)
        );
        assert_eq!(read(&long), Err(ValueError::TooLong(long.len())));
        let deep = format!(r#"{{"PublicIP":"1.2.3.4","x":{}"#, "[{\"x\":".repeat(2_000));
        assert!(read(&deep).is_err());
        let v6 = LeaseAttrs {
            public_ip: "fd00::3".parse().unwrap(),
            ..vxlan()
        };
        assert!(encode(&v6).is_err());
    }

    proptest! {
        #[test]
        fn no_value_panics(bytes: Vec<u8>, text in "[{}\":,a-zA-Z0-9.]{0,80}") {
            let _ = decode(&bytes);
            let _ = read(&text);
        }

        #[test]
        fn values_come_back(addr: u32, vni in 0_u64..1 << 24, mac: [u8; 6], kind in ".{0,20}") {
            let addr = Ipv4Addr::from(addr);
            prop_assume!(check(addr).is_ok() && kind != "vxlan");
            let vni = Vni::try_from(vni).unwrap();
            for backend in [Backend::Vxlan { vni, vtep_mac: Mac(mac) }, Backend::Other(kind)] {
                let attrs = LeaseAttrs { public_ip: addr.into(), backend };
                prop_assert_eq!(decode(&encode(&attrs).unwrap()), Ok(attrs));
            }
        }
    }
}
