//! ICMP echoes of a given size that must not be taken to pieces. The header is our own: the kernel
//! would go by what it believes of the way.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use nix::{
    setsockopt_impl,
    sys::socket::{setsockopt, sockopt::SetStruct},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use weft_common::wire::fold;

const IP: usize = 20;
const ICMP: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;
const TTL: u8 = 64;
const ICMP_PROTOCOL: u8 = 1;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// By `IP_PMTUDISC_INTERFACE` the kernel neither goes by what routers said of the way, nor learns from
/// what they answer to us: else the tunnel itself would be given another width, for ten minutes.
/// `IP_PMTUDISC_PROBE` would learn.
#[derive(Clone, Copy)]
struct MtuDiscovery;

setsockopt_impl!(
    MtuDiscovery,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int,
    SetStruct<'_, libc::c_int>
);

/// A socket, and the question that it asked last.
pub(super) struct Echoes {
    /// A raw one: what is sent and read by it is as for any other that is not connected.
    socket: UdpSocket,
    /// Tells our answers from those to others on this host.
    ident: u16,
    sequence: u16,
}

impl Echoes {
    /// Asks from this address.
    pub(super) fn open(source: IpAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_header_included_v4(true)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, MtuDiscovery, &libc::IP_PMTUDISC_INTERFACE)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            ident: rand::random(),
            sequence: 0,
        })
    }

    /// Sends a packet of that size in all.
    pub(super) async fn send(&mut self, to: Ipv4Addr, size: u32) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let packet = request(to, size, self.ident, self.sequence);
        let address = SocketAddr::new(IpAddr::V4(to), 0);
        self.socket.send_to(&packet, address).await.map(drop)
    }

    /// Waits for the answer to what was sent last.
    pub(super) async fn answer(&self, from: Ipv4Addr) -> io::Result<()> {
        // What is longer is cut off.
        let mut packet = [0; IP + 40 + ICMP];
        loop {
            let (length, _) = self.socket.recv_from(&mut packet).await?;
            let answer = packet.get(..length).and_then(reply);
            if answer == Some((from, self.ident, self.sequence)) {
                return Ok(());
            }
        }
    }
}

/// The kernel fills in length, source and checksum of the IP header.
fn request(to: Ipv4Addr, size: u32, ident: u16, sequence: u16) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or(0).max(IP + ICMP);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0];
    packet.extend(DONT_FRAGMENT.to_be_bytes());
    packet.extend([TTL, ICMP_PROTOCOL, 0, 0, 0, 0, 0, 0]);
    packet.extend(to.octets());
    let echo = u16::from_be_bytes([ECHO, 0]);
    // The rest is zero, which adds nothing.
    let sum = u32::from(echo) + u32::from(ident) + u32::from(sequence);
    for word in [echo, fold(sum), ident, sequence] {
        packet.extend(word.to_be_bytes());
    }
    packet.resize(size, 0);
    packet
}

/// Reads a packet, whatever it holds: for the fuzzer.
pub fn read_any(packet: &[u8]) {
    let _ = reply(packet);
}

/// Whose answer a packet is, and to what.
fn reply(packet: &[u8]) -> Option<(Ipv4Addr, u16, u16)> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let [kind, _, _, _, a, b, c, d] = *packet.get(header..)?.first_chunk::<ICMP>()?;
    let is_reply = header >= IP && kind == ECHO_REPLY;
    is_reply.then_some((
        source.into(),
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    #[test]
    fn a_question_has_its_size_and_a_good_checksum() {
        for size in [576, 1399, 1500] {
            let packet = request(PEER, size, 0xbeef, 3);
            assert_eq!(packet.len(), usize::try_from(size).unwrap());
            let words = packet[IP..].chunks(2);
            let sum: u32 = words
                .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
                .sum();
            assert_eq!(fold(sum), 0);
            assert_eq!(packet[6] & 0x40, 0x40);
        }
    }

    #[test]
    fn only_answers_count() {
        let mut packet = request(PEER, 576, 0xbeef, 3);
        packet[12..16].copy_from_slice(&PEER.octets());
        assert_eq!(reply(&packet), None, "our own question");
        packet[IP] = ECHO_REPLY;
        assert_eq!(reply(&packet), Some((PEER, 0xbeef, 3)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = reply(&packet);
        }
    }
}
