//! Files that other programs read.

pub mod docker_opts;
pub mod subnet_env;
