//! `--ip-blackhole-route`: what is sent to an address of our subnet that no container has must not
//! leave by the default route. A bridge has a route of its own for that; hosts whose containers
//! have a route each need this one.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tokio::time::sleep;
use tracing::warn;

use crate::netlink::{HostOp, Netlink};

/// Puts the route back whenever it is gone, until it is dropped.
pub async fn keep(netlink: impl Netlink, subnet: Ipv4Net, every: Duration) {
    let op = HostOp::PutBlackhole(IpNet::V4(subnet));
    let mut failed = false;
    loop {
        match netlink.apply(&op).await {
            Ok(()) => failed = false,
            Err(error) => {
                if !failed {
                    warn!(%error, "--ip-blackhole-route: will retry");
                }
                failed = true;
            }
        }
        sleep(every).await;
    }
}
