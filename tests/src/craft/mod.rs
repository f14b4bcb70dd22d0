//! Frames made byte by byte, right ones and wrong ones, for the probe's verb `frames`.
//!
//! A packet starts as a [`Flow`] with a payload, is changed with [`Ip::but`] and [`Ip::sum`], and
//! becomes a [`Frame`] on a [`Link`], perhaps inside a [`Tunnel`].

mod ip;
mod link;
mod offload;
mod sum;
mod transport;

pub use ip::{Ip, MORE_FRAGMENTS, NO_FRAGMENT, Sum};
pub use link::{Frame, Link, Mac, Tunnel};
pub use offload::{Aggregate, Offload, Partial, VNET_LEN, parse_line};
pub use sum::{crc32c, internet, internet_of};
pub use transport::{Flow, Segment};

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
/// EtherTypes of a customer's tag and of a provider's.
pub const TAG: u16 = 0x8100;
pub const SERVICE_TAG: u16 = 0x88a8;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Writes bytes over others; what lies behind the end is left out.
pub fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in into.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// A 16-bit word in network order.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*pair))
}

/// A payload that shows which byte went missing or wrong.
pub fn payload(len: usize) -> Vec<u8> {
    let words = (0_u32..).flat_map(|number| number.wrapping_mul(0x9e37_79b1).to_be_bytes());
    words.take(len).collect()
}
