//! Two pairs of hosts side by side, one on the kernel's VXLAN programmed as flannel does, one on
//! ours: the same packets are sent through both, and everything that can be observed is compared.

#![allow(
    clippy::indexing_slicing,
    reason = "all of this is tests, which clippy sees only of functions marked so"
)]

mod allowed;
mod build;
mod case;
mod cases;
mod compare;
mod counts;
mod pair;
mod place;
mod runner;
mod seen;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

#[test]
fn every_packet_fares_as_in_the_kernel() -> Result<()> {
    let mut runner = runner::Runner::start()?;
    let table = cases::all();
    let names: BTreeSet<_> = table.iter().map(|case| &case.name).collect();
    ensure!(names.len() == table.len(), "two cases of one name");
    ensure!(table.len() >= 300, "only {} cases", table.len());
    for case in &table {
        runner.run(case)?;
    }
    runner.finish()
}
