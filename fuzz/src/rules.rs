//! What the host's packet filters print.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft::policy::{self, Rules, Scene, chains::Table};

/// `iptables-save`.
pub(crate) fn iptables(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    judge(policy::iptables::tables("iptables", &text));
    policy::iptables::base_chains(&text).for_each(drop);
}

/// `nft -j list ruleset`.
pub(crate) fn nft(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(tables) = policy::nft::tables(&text, &|_, _| false) {
        judge(tables);
    }
}

/// Whatever was read can be judged.
fn judge(tables: Vec<Table>) {
    let rules = Ok(Rules {
        tables,
        ipsec: Vec::new(),
    });
    let peer = Ipv4Addr::new(192, 0, 2, 2);
    let net = |address: [u8; 4], length| Ipv4Net::new_assert(address.into(), length);
    let scene = Scene {
        network: net([10, 1, 0, 0], 16),
        subnet: net([10, 1, 3, 0], 24),
        vteps: vec![peer],
        bridges: vec!["docker0".to_owned()],
        ports: vec!["veth1".to_owned()],
        device: "flannel.1".to_owned(),
        uplink: "eth0".to_owned(),
        direct: true,
        vtep: Ipv4Addr::new(192, 0, 2, 1),
        port: 8472,
    };
    let _ = policy::containers(&rules, &scene);
    let _ = policy::tunnels(&rules, &scene, &[peer]);
}
