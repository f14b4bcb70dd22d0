//! Docker in the lab: two engines side by side over hosts programmed by hand.

mod common;

use anyhow::{Result, ensure};
use weft_tests::{
    container::Place as _,
    docker::Docker,
    lab::Lab,
    probe::{self, Exchange},
};

#[test]
fn two_engines_run_side_by_side() -> Result<()> {
    let lab = Lab::new("two_engines", 2)?;
    let hosts = common::kernel_hosts(&lab)?;
    let mut engines = Vec::new();
    let mut containers = Vec::new();
    for host in &hosts {
        // Docker's FORWARD policy is DROP; flannel's chains let the overlay pass.
        host.host
            .run("iptables -A FORWARD -s 188.172.0.0/16 -j ACCEPT")?;
        host.host
            .run("iptables -A FORWARD -d 188.172.0.0/16 -j ACCEPT")?;
        let options = [
            format!("--bip={}", host.env.subnet),
            "--mtu=1450".into(),
            "--ip-masq=false".into(),
        ];
        let engine = Docker::start(&host.host, &options)?;
        containers.push(engine.run("one", &["-p", "8080:80"], "httpd -f -p 80")?);
        engines.push(engine);
    }
    let (a, b) = (&containers[0], &containers[1]);
    ensure!(
        a.address.octets()[2] == 7 && b.address.octets()[2] == 9,
        "{a:?} {b:?}"
    );
    engines[0].exec(a, &format!("ping -c 2 -W 2 {}", b.address))?;

    let small = Exchange {
        port: 9000,
        rate: 1000,
        count: 200,
        size: 64,
    };
    probe::ensure_complete("small packets", small.run(a, b)?)?;
    ensure!(
        probe::ask(a, b, 9003)? == a.address(),
        "the source was rewritten"
    );
    Ok(())
}
