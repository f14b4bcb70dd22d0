//! The lab: hosts as network namespaces, a real etcd, real agents, and probes.
