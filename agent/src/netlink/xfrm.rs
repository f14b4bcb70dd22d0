//! IPsec: the policies that could be applied to a packet, and that they changed.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::sys::protocols::NETLINK_XFRM;

use super::{
    NetlinkError,
    raw::{self, Events},
};

const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMNLGRP_POLICY: u32 = 4;
const XFRMA_TMPL: u16 = 5;
/// Length of `struct xfrm_userpolicy_id`, which asks for policies.
const REQUEST_LEN: usize = 64;
/// Length of `struct xfrm_userpolicy_info`, which tells of one; its attributes follow.
const POLICY_LEN: usize = 168;
const ANY_FAMILY: u16 = 0;
const IPV4: u16 = 2;
/// `XFRM_POLICY_MAX`: from here on a policy is that of a single socket.
const SOCKETS: u8 = 3;

/// A policy for IPv4 packets: encrypt, or drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Packets from here,
    pub source: Ipv4Net,
    /// to there,
    pub destination: Ipv4Net,
    /// of this IP protocol; 0 is any.
    pub protocol: u8,
    /// To ports that are equal in the bits of the mask: value and mask.
    pub port: (u16, u16),
}

impl Policy {
    /// Whether it could apply to packets between two ranges; `udp` is their destination port, if
    /// they are UDP.
    #[must_use]
    pub fn concerns(&self, source: &Ipv4Net, destination: &Ipv4Net, udp: Option<u16>) -> bool {
        let overlap = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
        let (port, mask) = self.port;
        overlap(&self.source, source)
            && overlap(&self.destination, destination)
            && udp.is_none_or(|to| {
                matches!(self.protocol, 0 | 17) && (self.protocol == 0 || to & mask == port & mask)
            })
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "xfrm policy src {} dst {}",
            self.source, self.destination
        )
    }
}

/// The policies of the calling thread's network namespace that do something; none where the kernel
/// has no IPsec. One that cannot be read is taken for one that concerns everything.
pub async fn policies() -> Result<Vec<Policy>, NetlinkError> {
    let call = "read IPsec policies";
    match raw::dump(call, NETLINK_XFRM, XFRM_MSG_GETPOLICY, &[0; REQUEST_LEN]).await {
        Ok(rows) => Ok(rows.iter().filter_map(|row| read(row)).collect()),
        Err(error) if raw::is_unsupported(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Changes of policies; `None` where the kernel has no IPsec. Needs a tokio runtime.
pub fn changes() -> Result<Option<Events>, NetlinkError> {
    match Events::open(
        "subscribe to IPsec policies",
        NETLINK_XFRM,
        XFRMNLGRP_POLICY,
    ) {
        Ok(events) => Ok(Some(events)),
        Err(error) if raw::is_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None` for what leaves packets alone, and what is about others than IPv4 packets.
fn read(row: &[u8]) -> Option<Policy> {
    let everything = Policy {
        source: Ipv4Net::default(),
        destination: Ipv4Net::default(),
        protocol: 0,
        port: (0, 0),
    };
    let Some(info) = row.get(..POLICY_LEN) else {
        return Some(everything);
    };
    let byte = |at: usize| info.get(at).copied().unwrap_or_default();
    let family = u16::from_ne_bytes([byte(40), byte(41)]);
    let (direction, allows) = (byte(160), byte(161) == 0);
    if !matches!(family, ANY_FAMILY | IPV4) || direction >= SOCKETS {
        return None;
    }
    let attributes = raw::attributes(row.get(POLICY_LEN..).unwrap_or_default());
    if allows && !attributes.iter().any(|(kind, _)| *kind == XFRMA_TMPL) {
        return None;
    }
    if family == ANY_FAMILY {
        return Some(everything);
    }
    let net = |at: usize, length: u8| {
        let address = Ipv4Addr::from([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        Ipv4Net::new(address, length)
            .map(|net| net.trunc())
            .unwrap_or_default()
    };
    let port = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
    Some(Policy {
        source: net(16, byte(43)),
        destination: net(0, byte(42)),
        protocol: byte(44),
        port: (port(32), port(34)),
    })
}

/// Any bytes as a policy.
#[cfg(feature = "fakes")]
pub fn read_any(row: &[u8]) {
    let _ = read(row);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel tells of `src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 8472`.
    fn row(action: u8, direction: u8, template: bool) -> Vec<u8> {
        let mut row = vec![0; POLICY_LEN];
        row[..4].copy_from_slice(&[192, 0, 2, 2]);
        row[16..20].copy_from_slice(&[192, 0, 2, 1]);
        row[32..34].copy_from_slice(&8472u16.to_be_bytes());
        row[34..36].copy_from_slice(&[0xff, 0xff]);
        row[40..42].copy_from_slice(&2u16.to_ne_bytes());
        (row[42], row[43], row[44]) = (32, 32, 17);
        (row[160], row[161]) = (direction, action);
        if template {
            row.extend([8, 0, 5, 0, 1, 2, 3, 4]);
        }
        row
    }

    #[test]
    fn what_does_something_is_kept() {
        assert!(read(&row(1, 1, false)).is_some(), "blocks");
        assert!(read(&row(0, 1, true)).is_some(), "encrypts");
        assert!(read(&row(0, 1, false)).is_none(), "lets pass as it is");
        assert!(read(&row(1, 4, false)).is_none(), "of one socket");
        let cut = read(&[0; 20]).expect("not understood");
        assert_eq!(cut.source, Ipv4Net::default());
    }

    #[test]
    fn selectors_are_compared() {
        let policy = read(&row(1, 1, false)).unwrap();
        assert_eq!(
            policy.to_string(),
            "xfrm policy src 192.0.2.1/32 dst 192.0.2.2/32"
        );
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let (a, b) = (net("192.0.2.1/32"), net("192.0.2.2/32"));
        assert!(policy.concerns(&a, &b, Some(8472)));
        assert!(policy.concerns(&net("192.0.2.0/24"), &b, None));
        assert!(!policy.concerns(&b, &a, Some(8472)));
        assert!(!policy.concerns(&a, &b, Some(4789)));
    }
}
