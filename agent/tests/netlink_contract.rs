//! What the netlink seam promises, held against the host in memory and against the kernel.
//! The kernel's half needs root.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this file is tests, which clippy sees only of functions marked so"
)]

#[path = "netns/mod.rs"]
mod netns;

#[path = "netlink_contract/bridges.rs"]
mod bridges;
#[path = "netlink_contract/conntrack.rs"]
mod conntrack;
#[path = "netlink_contract/echoes.rs"]
mod echoes;
#[path = "netlink_contract/kernel.rs"]
mod kernel;
#[path = "netlink_contract/nexthops.rs"]
mod nexthops;
#[path = "netlink_contract/rules.rs"]
mod rules;
#[path = "netlink_contract/suite/mod.rs"]
mod suite;

use weft::netlink::{LinkKind, fake::FakeHost, kernel::Rtnetlink};

use self::netns::{in_fresh_netns, run};

/// The suite on the host in memory, with an uplink `up0` at 192.0.2.1/24.
fn in_memory() -> FakeHost {
    let host = FakeHost::default();
    host.add_link("up0", LinkKind::Other(String::new()));
    host
}

/// The same uplink in the calling thread's namespace.
fn in_kernel() -> Rtnetlink {
    run("ip link add up0 type veth peer name peer0");
    run("ip link set up0 up");
    run("ip link set peer0 up");
    Rtnetlink::new().unwrap()
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test]
                async fn $name() {
                    super::suite::$name(super::in_memory()).await;
                }
            )*
        }
        mod real {
            $(
                #[test]
                fn $name() {
                    super::in_fresh_netns(|| async {
                        super::suite::$name(super::in_kernel()).await;
                    });
                }
            )*
        }
    };
}

contract![
    a_device_reads_back_as_made,
    a_device_is_made_once,
    addresses_come_and_go,
    neighbours_come_and_go,
    tunnel_entries_come_and_go,
    neighbours_of_some_links_are_read_again,
    routes_come_and_go,
    a_blackhole_never_stands_beside_a_route,
    the_route_of_an_address_is_put_back_where_nothing_else_is,
    neighbours_are_managed,
    removing_a_link_takes_everything_along,
    removing_what_is_gone_succeeds,
    a_missing_link_is_an_error,
    changes_wake,
    the_way_to_an_address_is_found,
];
