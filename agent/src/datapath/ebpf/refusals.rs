//! The programs' samples of dropped packets, into the log: what, from whom, why.

use std::net::Ipv4Addr;

use aya::maps::{Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;
use weft_common::{
    abi,
    refusal::Refusal,
    stats::{Hook, Reason},
};
use zerocopy::FromBytes as _;

use super::{EbpfDatapath, call};
use crate::{datapath::DatapathError, model::net::Mac};

impl EbpfDatapath {
    /// Logs samples until it is dropped. Counters are exact whether anybody listens or not.
    pub fn log_refusals(&self) -> Result<impl Future<Output = ()> + Send + use<>, DatapathError> {
        let doing = "open the ring of samples";
        let data = MapData::from_pin(self.pins.map(abi::REFUSALS)).map_err(call(doing))?;
        let map = Map::from_map_data(data).map_err(call(doing))?;
        let ring = RingBuf::try_from(map).map_err(call(doing))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and the ring keeps its descriptor"
        )]
        let mut ring = AsyncFd::with_interest(ring, Interest::READABLE).map_err(call(doing))?;
        Ok(async move {
            while let Ok(mut ready) = ring.readable_mut().await {
                while let Some(item) = ready.get_inner_mut().next() {
                    if let Ok((refusal, _)) = Refusal::read_from_prefix(&item) {
                        log(&refusal);
                    }
                }
                ready.clear_ready();
            }
        })
    }
}

fn log(refusal: &Refusal) {
    let Refusal {
        hook,
        reason,
        ifindex,
        mac,
        _pad: _,
        source,
        destination,
        inner_source,
        inner_destination,
    } = *refusal;
    let hook = Hook::ALL.iter().find(|known| **known as u32 == hook);
    let reason = Reason::ALL.iter().find(|known| **known as u32 == reason);
    let inner = (inner_source != [0; 4]).then(|| {
        let (from, to) = (
            Ipv4Addr::from(inner_source),
            Ipv4Addr::from(inner_destination),
        );
        format!("{from} to {to}")
    });
    warn!(
        hook = hook.map_or("?", |hook| hook.name()),
        reason = reason.map_or("?", |reason| reason.name()),
        device = ifindex,
        mac = %Mac(mac),
        from = %Ipv4Addr::from(source),
        to = %Ipv4Addr::from(destination),
        inside = inner,
        "a packet was refused (a sample; the counters have them all)"
    );
}
