//! The first seam: where leases live.

use std::future::Future;

use futures::{Stream, stream::BoxStream};

use crate::model::{
    lease::{Claim, Lease, LeaseAttrs, LeaseEvent, Position, Revision, Snapshot},
    net::Subnet,
    network::NetworkConfig,
};

pub mod backoff;
pub mod etcd;
#[cfg(any(test, feature = "fakes"))]
pub mod memory;
pub mod record;

/// What can go wrong with the store, as far as a caller acts on it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The network config is not there yet.
    #[error(
        "the network config `{key}` is not in the store: write it with `etcdctl put {key} '{{ \"Network\": \"10.42.0.0/16\", \"Backend\": {{\"Type\": \"vxlan\"}}}}'`"
    )]
    ConfigMissing {
        /// Where it should be.
        key: String,
    },
    /// The network config is there and cannot be used.
    #[error("the network config `{key}` cannot be used: {why}")]
    ConfigInvalid {
        /// Where it is.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// Every subnet of the range is taken.
    #[error(
        "no free subnet between {min} and {max}: remove dead leases or widen the network config"
    )]
    NoFreeSubnet {
        /// First of the range.
        min: Subnet,
        /// Last of the range.
        max: Subnet,
    },
    /// The lease is no longer ours.
    #[error("the lease of {subnet} is lost: {why}")]
    LeaseLost {
        /// What was leased.
        subnet: Subnet,
        /// How it was lost.
        why: String,
    },
    /// The watch cannot go on from where it was: read a snapshot.
    #[error(
        "the watch cannot go on from where it was (the store's history stands at revision {0}): a snapshot must be read"
    )]
    Compacted(Revision),
    /// The store does not answer, or not now.
    #[error("the store at {endpoints} is not available: {why}")]
    Unavailable {
        /// Who was asked.
        endpoints: String,
        /// What it said.
        why: String,
    },
    /// The store answers and refuses.
    #[error("the store refuses: {why}")]
    Refused {
        /// What it said, with the remedy where one is known.
        why: String,
    },
}

/// Says that something may have changed, not what.
pub type Bells = BoxStream<'static, Result<(), StoreError>>;

/// What came of taking a subnet again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retaken {
    /// It is ours.
    Held(Lease),
    /// Another node's record is in the way.
    Taken {
        /// Which.
        by: String,
    },
    /// Its record bears our address and another MAC: a second node believes to be us.
    Twin(Lease),
}

/// What to do with the record of a second node that believes to be us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTwin {
    /// It stays.
    Leave,
    /// Ours takes its place, if nobody writes in between.
    Overwrite,
}

/// Where leases live. Keys and values are flannel's, byte for byte.
pub trait LeaseStore: Send + Sync + 'static {
    /// Changes after a snapshot. The stream ends with an error, or when the store closes it; then
    /// a snapshot must be read. Several changes may have one revision, so whoever stops in the
    /// middle must read one as well.
    type Events: Stream<Item = Result<LeaseEvent, StoreError>> + Send + Unpin;

    /// Reads and checks the network config.
    fn network(&self) -> impl Future<Output = Result<NetworkConfig, StoreError>> + Send;

    /// Rings for each change of the network config from now on, which is then to be read. Ends with
    /// an error, or when the store closes it: then it may have changed, too.
    fn watch_network(&self) -> impl Future<Output = Result<Bells, StoreError>> + Send;

    /// Reads every lease at one revision.
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, StoreError>> + Send;

    /// Follows the leases from the revision after `after`, of the same store only.
    fn watch(
        &self,
        after: Position,
    ) -> impl Future<Output = Result<Self::Events, StoreError>> + Send;

    /// Chooses a subnet as flannel does (own by address, then the previous one, then a free one)
    /// and takes it by compare-and-swap. Never overlaps another lease. Our own lease is kept as it
    /// is where it already says what we claim, so that no other node sees a change.
    fn claim(
        &self,
        config: &NetworkConfig,
        claim: &Claim,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Keeps the lease alive, if the store still has it as we know it; else it is lost. A
    /// reservation needs no keeping, and can be lost all the same.
    fn renew(&self, lease: &Lease) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes exactly this subnet again, by compare-and-swap, after it was lost: where it is free, or
    /// its record is our own (by address and MAC). Else nothing is written.
    fn retake(
        &self,
        lease: &Lease,
        on_twin: OnTwin,
    ) -> impl Future<Output = Result<Retaken, StoreError>> + Send;

    /// Says something else of the subnet that we have, by compare-and-swap: as long as its record is
    /// the one that we know, or says it already. Else it is lost, and nothing is written.
    fn republish(
        &self,
        lease: &Lease,
        attrs: &LeaseAttrs,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Gives the lease back, if it is still ours. A reservation stays: it is the operator's.
    fn release(&self, lease: &Lease) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The key of a subnet's lease.
    fn key_of(&self, subnet: Subnet) -> String;
}
