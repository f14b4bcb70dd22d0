//! What is read from files.

use weft::{
    outputs::{
        docker_opts::{self, DockerEnv, DockerOpts},
        subnet_env::SubnetEnv,
    },
    store::etcd::fuzzing,
};

/// `subnet.env`: what was read is written as it was understood.
pub(crate) fn subnet_env(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(env) = SubnetEnv::parse(&text) {
        let again = SubnetEnv::parse(&env.text()).expect("what was read can be written");
        assert_eq!(env, again);
    }
    if let Ok(env) = DockerEnv::parse(&text, false) {
        docker_opts::render(&env, &DockerOpts::default()).expect("the usual name is a good one");
    }
}

/// Certificates, a key and a password: three files, apart by a zero byte.
pub(crate) fn certificates(input: &[u8]) {
    let mut parts = input.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    fuzzing::certificates(part(), part(), part());
}
