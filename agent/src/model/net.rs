//! Address-like values that are more than a number.

use std::{fmt, num::NonZeroU32, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

/// Why a text or a number is not one of the values of this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not six bytes in hexadecimal.
    #[error("`{0}` is not a MAC address")]
    Mac(String),
    /// Does not fit 24 bits.
    #[error("VNI {0} is outside 0 to 16777215")]
    Vni(u64),
    /// Host bits are set.
    #[error("{0} is not a subnet: host bits are set")]
    HostBits(IpNet),
    /// Too small to carry IPv4.
    #[error("MTU {0} is below 576")]
    Mtu(u32),
    /// Interface numbers start at one.
    #[error("0 is no interface index")]
    IfIndex,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A random unicast, locally administered address, as flannel makes for its device.
    #[must_use]
    pub fn random(rng: &mut impl rand::RngCore) -> Self {
        let mut bytes = [0; 6];
        rng.fill_bytes(&mut bytes);
        bytes[0] = (bytes[0] & !1) | 2;
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NetError;

    /// Colons, dashes, or three groups with dots, as Go's `net.ParseMAC` takes for six bytes.
    fn from_str(text: &str) -> Result<Self, NetError> {
        let bad = || NetError::Mac(text.to_owned());
        let (separator, digits) = match text {
            t if t.contains(':') => (':', 2),
            t if t.contains('-') => ('-', 2),
            t if t.contains('.') => ('.', 4),
            _ => return Err(bad()),
        };
        let mut joined = String::with_capacity(12);
        for group in text.split(separator) {
            if group.len() != digits || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            joined.push_str(group);
        }
        if joined.len() != 12 {
            return Err(bad());
        }
        let number = u64::from_str_radix(&joined, 16).map_err(|_not_hex| bad())?;
        let [_, _, bytes @ ..] = number.to_be_bytes();
        Ok(Self(bytes))
    }
}

/// A kernel interface number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(NonZeroU32);

impl IfIndex {
    /// The number, never zero.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for IfIndex {
    type Error = NetError;

    fn try_from(index: u32) -> Result<Self, NetError> {
        NonZeroU32::new(index).map(Self).ok_or(NetError::IfIndex)
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// VXLAN network identifier, 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The name of the network's device, which is flannel's.
    #[must_use]
    pub fn device(self) -> String {
        format!("flannel.{self}")
    }
}

impl TryFrom<u64> for Vni {
    type Error = NetError;

    fn try_from(number: u64) -> Result<Self, NetError> {
        match u32::try_from(number) {
            Ok(vni) if vni < 1 << 24 => Ok(Self(vni)),
            _ => Err(NetError::Vni(number)),
        }
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of IP packet that an interface carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u32);

impl Mtu {
    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = NetError;

    fn try_from(bytes: u32) -> Result<Self, NetError> {
        if bytes < 576 {
            Err(NetError::Mtu(bytes))
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One node's slice of the network. Never has host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(IpNet);

impl Subnet {
    /// The slice as a prefix.
    #[must_use]
    pub const fn net(self) -> IpNet {
        self.0
    }

    /// The slice as an IPv4 prefix, if it is one.
    #[must_use]
    pub const fn v4(self) -> Option<Ipv4Net> {
        match self.0 {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl TryFrom<IpNet> for Subnet {
    type Error = NetError;

    fn try_from(net: IpNet) -> Result<Self, NetError> {
        if net.trunc() == net {
            Ok(Self(net))
        } else {
            Err(NetError::HostBits(net))
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read_in_the_forms_of_go() {
        let want = Mac([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
        for text in ["c6:d2:32:6f:8f:44", "C6-D2-32-6F-8F-44", "c6d2.326f.8f44"] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        assert_eq!(want.to_string(), "c6:d2:32:6f:8f:44");
        for text in [
            "",
            "c6:d2:32:6f:8f",
            "c6:d2:32:6f:8f:44:55:66",
            "c6d2326f8f44",
            "g6:d2:32:6f:8f:44",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn random_macs_are_local_unicast() {
        let mut rng = rand::rng();
        for _ in 0..100 {
            let mac = Mac::random(&mut rng);
            assert_eq!(mac.0[0] & 3, 2, "{mac}");
        }
    }

    #[test]
    fn numbers_are_checked() {
        assert!(Vni::try_from((1 << 24) - 1).is_ok());
        assert!(Vni::try_from(1 << 24).is_err());
        assert!(Mtu::try_from(575).is_err());
        assert!(IfIndex::try_from(0).is_err());
        let net: IpNet = "10.1.2.3/24".parse().unwrap();
        assert!(Subnet::try_from(net).is_err());
        assert!(Subnet::try_from(net.trunc()).is_ok());
    }
}
