//! Leases in etcd v3.
