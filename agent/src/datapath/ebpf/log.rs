//! The programs' development log, with the feature `bpf-log`: one line a packet and hook.

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::{EbpfDatapath, call};
use crate::datapath::DatapathError;

impl EbpfDatapath {
    /// Passes the programs' lines on to the `log` facade until it is dropped.
    pub fn pump_log(&mut self) -> Result<impl Future<Output = ()> + Send + use<>, DatapathError> {
        let logger = EbpfLogger::init(&mut self.ebpf).map_err(call("open the programs' log"))?;
        #[expect(
            deprecated,
            reason = "aya-log 0.3 gives its descriptor only as a number"
        )]
        let mut logger = AsyncFd::with_interest(logger, Interest::READABLE)
            .map_err(call("wait for the programs' log"))?;
        Ok(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        })
    }
}
