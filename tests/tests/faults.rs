//! The fast subset of the fault lab, on one stage. `cargo xtask faults` has all rows.

use anyhow::{Result, ensure};
use weft_tests::faults::{self, Verdict, table};

#[test]
fn the_fast_rows_pass() -> Result<()> {
    println!("{}", table::HEADING);
    let verdicts = faults::run_all(table::fast(), false, 1, |verdict| {
        println!("{} {:.1?}", table::line(verdict), verdict.took);
        if let Some(why) = &verdict.failure {
            println!("{why}");
        }
    })?;
    let failed: Vec<_> = verdicts
        .iter()
        .filter(|verdict| !verdict.passed())
        .collect();
    let name = |verdict: &&Verdict| format!("{} {:?}", verdict.row.number, verdict.failure);
    ensure!(
        failed.is_empty(),
        "{:?}",
        failed.iter().map(name).collect::<Vec<_>>()
    );
    Ok(())
}
