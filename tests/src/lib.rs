//! The lab: hosts as network namespaces, a real etcd, real agents, and probes.

pub mod command;
pub mod host;
pub mod netns;
pub mod paths;
pub mod report;
pub mod wait;
