//! Key text: `<prefix>/config` and `<prefix>/subnets/<a.b.c.d>-<len>`.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};

use crate::model::net::Subnet;

/// The part of the store that is one overlay network's.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

/// What the name of a lease's key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The IPv4 subnet.
    pub subnet: Subnet,
    /// Whether the key names an IPv6 subnet too.
    pub dual_stack: bool,
}

/// Why a key is no lease's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key does not name a subnet: {why}")]
pub struct NameError {
    /// What is wrong.
    pub why: &'static str,
    /// The addresses that it seems to claim all the same; nobody else should take them.
    pub subnet: Option<Subnet>,
}

impl Keys {
    /// The keys under a prefix, which is cleaned as a path, as flannel does: no slash at its end, no
    /// two in a row. One that is missing at its start stays missing.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for part in prefix.split('/') {
            match part {
                "" | "." => {}
                ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
                ".." if prefix.starts_with('/') => {}
                part => parts.push(part),
            }
        }
        let root = if prefix.starts_with('/') { "/" } else { "" };
        Self {
            prefix: format!("{root}{}", parts.join("/")),
        }
    }

    fn under(&self, name: &str) -> String {
        match self.prefix.as_str() {
            "" | "/" => format!("{}{name}", self.prefix),
            prefix => format!("{prefix}/{name}"),
        }
    }

    /// Where the network config is.
    #[must_use]
    pub fn config(&self) -> String {
        self.under("config")
    }

    /// What every lease's key starts with. The slash at the end keeps siblings like
    /// `subnets-old` out, which flannel takes for leases.
    #[must_use]
    pub fn leases(&self) -> String {
        self.under("subnets/")
    }

    /// The key of a subnet's lease.
    #[must_use]
    pub fn lease(&self, subnet: Subnet) -> String {
        let net = subnet.net();
        format!("{}{}-{}", self.leases(), net.addr(), net.prefix_len())
    }

    /// Reads a key under [`Self::leases`].
    pub fn read(&self, key: &[u8]) -> Result<Name, NameError> {
        let text = std::str::from_utf8(key).map_err(|_bytes| bad("it is not UTF-8"))?;
        let name = text
            .strip_prefix(&self.leases())
            .ok_or_else(|| bad("it is not under the prefix"))?;
        match name.split_once('&') {
            None => Ok(Name {
                subnet: v4(name)?,
                dual_stack: false,
            }),
            Some((four, six)) => {
                let subnet = v4(four)?;
                v6(six)?;
                Ok(Name {
                    subnet,
                    dual_stack: true,
                })
            }
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

fn v4(name: &str) -> Result<Subnet, NameError> {
    let (addr, len) = name
        .split_once('-')
        .ok_or_else(|| bad("it has no length after a dash"))?;
    let addr: Ipv4Addr = addr
        .parse()
        .map_err(|_not_an_address| bad("it has no IPv4 address"))?;
    // One record must not be able to claim every address there is.
    let len = length(len, 1, 31)?;
    let net = Ipv4Net::new_assert(addr, len);
    Subnet::try_from(IpNet::V4(net)).map_err(|_host_bits| NameError {
        why: "host bits are set",
        subnet: Subnet::try_from(IpNet::V4(net.trunc())).ok(),
    })
}

fn v6(name: &str) -> Result<(), NameError> {
    let (addr, len) = name
        .split_once('-')
        .ok_or_else(|| bad("its IPv6 half has no length after a dash"))?;
    let in_use = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b':';
    if !addr.bytes().all(in_use) || addr.parse::<Ipv6Addr>().is_err() {
        return Err(bad("its IPv6 half has no address"));
    }
    length(len, 0, 127).map(|_| ())
}

/// Only the usual form of a number: with any other, two keys could name one subnet.
fn length(text: &str, least: u8, most: u8) -> Result<u8, NameError> {
    text.parse()
        .ok()
        .filter(|len: &u8| (least..=most).contains(len) && len.to_string() == text)
        .ok_or_else(|| bad("its length is not a number that can be"))
}

fn bad(why: &'static str) -> NameError {
    NameError { why, subnet: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(name: &str) -> Result<Name, NameError> {
        let keys = Keys::new("/coreos.com/network");
        keys.read(format!("/coreos.com/network/subnets/{name}").as_bytes())
    }

    #[test]
    fn keys_are_flannels() {
        let keys = Keys::new("/coreos.com/network/");
        assert_eq!(keys.config(), "/coreos.com/network/config");
        let subnet = Subnet::try_from("10.5.52.0/24".parse::<IpNet>().unwrap()).unwrap();
        let key = "/coreos.com/network/subnets/10.5.52.0-24";
        assert_eq!(keys.lease(subnet), key);
        let want = Name {
            subnet,
            dual_stack: false,
        };
        assert_eq!(keys.read(key.as_bytes()), Ok(want));
        assert!(
            keys.read(b"/coreos.com/network/subnets-old/10.5.52.0-24")
                .is_err()
        );
        assert!(keys.read(b"/coreos.com/network/config").is_err());
        assert!(keys.read(b"\xff").is_err());
    }

    #[test]
    fn a_prefix_is_cleaned_as_a_path() {
        for (prefix, config) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network//", "/coreos.com/network/config"),
            ("//coreos.com//network", "/coreos.com/network/config"),
            ("/coreos.com/./x/../network", "/coreos.com/network/config"),
            ("coreos.com/network/", "coreos.com/network/config"),
            ("/../a", "/a/config"),
            ("../a", "../a/config"),
            ("/", "/config"),
            ("", "config"),
        ] {
            assert_eq!(Keys::new(prefix).config(), config, "{prefix}");
        }
    }

    #[test]
    fn names_are_read_strictly() {
        assert!(!read("10.12.13.0-24").unwrap().dual_stack);
        let both = read("10.12.13.0-24&fd00:12:13::-56").unwrap();
        assert!(both.dual_stack);
        assert_eq!(both.subnet.to_string(), "10.12.13.0/24");
        for name in [
            "",
            "10",
            "10.12.13.0",
            "10.12.13-24",
            "10.12.13.300-24",
            "10.12.13.0-24hi",
            "hi10.12.13.0-24",
            "10.12.13.0-024",
            "10.12.13.0-+24",
            "10.12.013.0-24",
            "10.12.13.0-32",
            "10.12.13.0-0",
            "0.0.0.0-0",
            "10.12.13.0/24",
            "10.12.13.0-24/x",
            "&2001::-56",
            "10.12.13.0-24&:12:13:-56",
            "10.12.13.0-24&20011::-56",
            "10.12.13.0-24&2001-56",
            "10.12.13.0-24&2001::",
            "10.12.13.0-24&2001::-56hi",
            "10.12.13.0-24&2001::-128",
            "10.12.13.0-24&FD00::-56",
        ] {
            assert!(read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_bad_name_still_blocks_its_addresses() {
        let subnet = read("10.12.13.7-24").unwrap_err().subnet.unwrap();
        assert_eq!(subnet.to_string(), "10.12.13.0/24");
    }

    proptest! {
        #[test]
        fn no_key_panics(key: Vec<u8>, name in "[0-9.&:a-f-]{0,30}") {
            let _ = Keys::new("/x").read(&key);
            let _ = read(&name);
        }

        #[test]
        fn names_come_back(addr: u32, len in 1_u8..32) {
            let net = Ipv4Net::new_assert(Ipv4Addr::from(addr), len).trunc();
            let subnet = Subnet::try_from(IpNet::V4(net)).unwrap();
            let keys = Keys::new("/x");
            prop_assert_eq!(keys.read(keys.lease(subnet).as_bytes()).unwrap().subnet, subnet);
        }
    }
}
