//! What several suites need: a pair of hosts with no code of ours on the way.

use anyhow::Result;
use weft_tests::{kernel_host::KernelHost, lab::Lab, subnet_env::SubnetEnv};

pub fn env(third: u8) -> SubnetEnv {
    SubnetEnv {
        network: "188.172.0.0/16".parse().expect("a constant"),
        subnet: format!("188.172.{third}.1/24").parse().expect("a constant"),
        mtu: 1450,
        ip_masq: false,
    }
}

/// Two hosts that know each other, without bridges or containers.
pub fn kernel_hosts(lab: &Lab) -> Result<Vec<KernelHost>> {
    let mut hosts = Vec::new();
    for (index, third) in [7, 9].into_iter().enumerate() {
        let host = KernelHost::new(lab.host(index)?, env(third))?;
        host.publish(&lab.etcd)?;
        hosts.push(host);
    }
    for host in &hosts {
        host.learn(&lab.etcd)?;
    }
    Ok(hosts)
}
