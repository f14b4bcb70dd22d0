//! The weft agent: leases in, links, routes, maps and programs out.
//!
//! `model`, `lease` and the pure half of `reconcile` do no I/O. The three seams are `store`
//! (leases), `netlink` (the host) and `datapath` (programs and maps). `app` puts them together.

pub mod admin;
pub mod app;
pub mod child;
pub mod cli;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod endpoints;
pub mod firewall;
pub mod lease;
pub mod model;
pub mod netlink;
pub mod outputs;
pub mod paths;
pub mod policy;
pub mod reconcile;
pub mod store;
pub mod sysctl;
pub mod telemetry;
pub mod uplink;
