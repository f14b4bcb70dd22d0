//! Runs a loaded program on a made-up packet (`BPF_PROG_TEST_RUN`), on no device's way.

use std::time::Duration;

use aya::{
    TestRun as _, TestRunOptions,
    programs::{SchedClassifier, TestRunResult},
};
use weft_common::stats::Hook;

use super::{EbpfDatapath, call};
use crate::datapath::DatapathError;

/// Bytes of `struct __sk_buff` (`linux/bpf.h`) and the places of the fields that are set.
const CONTEXT: usize = 192;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;
/// Room for the headers that a program may add.
const HEADROOM: usize = 256;

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The program's answer: -1 to go on, 2 to drop, 7 for a redirect.
    pub action: i32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

impl EbpfDatapath {
    /// Runs the hook's program on `frame`, at the device `ifindex` of the calling thread's network
    /// namespace. `gso_size` marks the packet as an aggregate; its kind stays unset, so the kernel
    /// refuses to grow it.
    pub fn try_packet(
        &self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        gso_size: u32,
    ) -> Result<Trial, DatapathError> {
        let mut out = vec![0u8; frame.len() + HEADROOM];
        let context = context(ifindex, gso_size);
        let result = self.test_run(
            hook,
            TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            },
        )?;
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        Ok(Trial {
            action: result.return_value.cast_signed(),
            frame: out,
        })
    }

    /// How long one run takes on the average of `runs`, for a packet that the program leaves as it
    /// is: every run gets what the one before has left.
    pub fn time_packet(
        &self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        runs: u32,
    ) -> Result<Duration, DatapathError> {
        let context = context(ifindex, 0);
        let result = self.test_run(
            hook,
            TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                repeat: runs,
                ..TestRunOptions::default()
            },
        )?;
        Ok(result.duration)
    }

    fn test_run(
        &self,
        hook: Hook,
        options: TestRunOptions<'_>,
    ) -> Result<TestRunResult, DatapathError> {
        let doing = format!("run {}", hook.name());
        let missing = || DatapathError {
            call: doing.clone(),
            why: "the object has no such program".to_owned(),
            errno: None,
        };
        let program = self.ebpf.program(hook.name()).ok_or_else(missing)?;
        let program: &SchedClassifier = program.try_into().map_err(call(&doing))?;
        program.test_run(options).map_err(call(&doing))
    }
}

/// The context of a packet at a device.
fn context(ifindex: u32, gso_size: u32) -> [u8; CONTEXT] {
    let mut context = [0u8; CONTEXT];
    for (place, value) in [(IFINDEX, ifindex), (GSO_SIZE, gso_size)] {
        if let Some(field) = context.get_mut(place..place + 4) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    }
    context
}
