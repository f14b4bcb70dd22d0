//! What the programs cost: the verifier's work, and the size of what it let through.

use aya::programs::SchedClassifier;
use weft_common::stats::Hook;

use super::{EbpfDatapath, call};
use crate::datapath::DatapathError;

/// The cost of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions that the verifier looked at, on every path. It gives up at a million.
    pub verified: u32,
    /// Bytes of instructions before they are compiled for the processor.
    pub translated: u32,
}

impl EbpfDatapath {
    /// What the hook's program cost when it was loaded.
    pub fn cost(&self, hook: Hook) -> Result<Cost, DatapathError> {
        let doing = format!("read the cost of {}", hook.name());
        let missing = |why: &str| DatapathError {
            call: doing.clone(),
            why: why.to_owned(),
            errno: None,
        };
        let program = self.ebpf.program(hook.name());
        let program = program.ok_or_else(|| missing("the object has no such program"))?;
        let program: &SchedClassifier = program.try_into().map_err(call(&doing))?;
        let info = program.info().map_err(call(&doing))?;
        let unsaid = || missing("the kernel does not say (Linux 5.16 does)");
        Ok(Cost {
            verified: info.verified_instruction_count().ok_or_else(unsaid)?,
            translated: info.size_translated().ok_or_else(unsaid)?,
        })
    }
}
