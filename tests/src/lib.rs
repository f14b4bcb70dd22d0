//! The lab: hosts as network namespaces, a real etcd, real agents, and probes.

pub mod agent;
pub mod capture;
pub mod command;
pub mod connectivity;
pub mod container;
pub mod craft;
pub mod daemon;
pub mod docker;
pub mod dump;
pub mod etcd;
pub mod frame;
pub mod host;
pub mod kernel_host;
pub mod lab;
pub mod load;
pub mod netns;
pub mod paths;
pub mod probe;
pub mod reach;
pub mod report;
pub mod sender;
pub mod subnet_env;
pub mod wait;
pub mod walkthrough;
pub mod world;
