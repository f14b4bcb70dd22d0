//! Addresses, the same in both pairs: their frames can be compared byte by byte.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicU16, Ordering},
};

use weft_tests::craft::{Flow, Link, Mac, Tunnel};

/// The third byte of each host's subnet, and the last of its address on the wire.
pub const THIRD: [u8; 2] = [11, 12];
pub const VTEPS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(192, 0, 2, THIRD[0]),
    Ipv4Addr::new(192, 0, 2, THIRD[1]),
];
pub const OVERLAY_PORT: u16 = 8472;
pub const MTU: usize = 1450;
/// The containers' own links are wider, so that what does not fit can be sent.
pub const WIDE: usize = 1500;

/// The container of each host.
pub const A: Ipv4Addr = inside(0, 2);
pub const B: Ipv4Addr = inside(1, 2);

/// An address of a host's subnet.
pub const fn inside(host: usize, last: u8) -> Ipv4Addr {
    let third = if host == 0 { THIRD[0] } else { THIRD[1] };
    Ipv4Addr::new(188, 172, third, last)
}

/// What a MAC belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    Uplink,
    Bridge,
    Container,
    /// The second container of a host.
    Neighbour,
    /// The switch between the hosts; of the first.
    Switch,
}

pub const fn mac(owner: Owner, host: usize) -> Mac {
    let third = if host == 0 { THIRD[0] } else { THIRD[1] };
    [2, 0, 0, 0, owner as u8, third]
}

/// As the lab gives them to devices made by hand.
pub const fn vtep_mac(host: usize) -> Mac {
    let third = if host == 0 { THIRD[0] } else { THIRD[1] };
    [0x0a, 0x1b, 0x2c, 0x3d, 0x4e, third]
}

/// From a container to its bridge.
pub const fn link(host: usize) -> Link {
    Link {
        source: mac(Owner::Container, host),
        destination: mac(Owner::Bridge, host),
    }
}

/// From the first container to an address, each time by another port: what became of one flow must
/// not decide of another.
pub fn to(address: Ipv4Addr) -> Flow {
    static PORT: AtomicU16 = AtomicU16::new(4000);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    Flow {
        source: SocketAddrV4::new(A, port),
        destination: SocketAddrV4::new(address, 5000),
    }
}

/// From container to container.
pub fn flow() -> Flow {
    to(B)
}

/// As the first host encapsulates for the second.
pub fn tunnel() -> Tunnel {
    let link = Link {
        source: mac(Owner::Uplink, 0),
        destination: mac(Owner::Uplink, 1),
    };
    let vteps = Flow {
        source: SocketAddrV4::new(VTEPS[0], 45678),
        destination: SocketAddrV4::new(VTEPS[1], OVERLAY_PORT),
    };
    let inner = Link {
        source: vtep_mac(0),
        destination: vtep_mac(1),
    };
    Tunnel::new(link, vteps, inner)
}
