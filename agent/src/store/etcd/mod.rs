//! Leases in etcd v3.

pub mod codec;
pub mod keys;
