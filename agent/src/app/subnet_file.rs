//! Keeps `subnet.env` in place: whoever deletes or changes it gets it back.

use std::path::PathBuf;

use tracing::{info, warn};

use crate::{model::net::Mtu, outputs::subnet_env::SubnetEnv};

/// Where the file is, or why it is not there.
pub type FileState = Result<String, String>;

/// The file and what belongs in it.
#[derive(Debug)]
pub struct SubnetFile {
    path: PathBuf,
    env: SubnetEnv,
    state: FileState,
}

impl SubnetFile {
    /// Writes nothing yet.
    #[must_use]
    pub fn new(path: PathBuf, env: SubnetEnv) -> Self {
        Self {
            path,
            env,
            state: Err("not written yet".to_owned()),
        }
    }

    /// How it stands, as of the last look.
    pub fn state(&self) -> &FileState {
        &self.state
    }

    /// Looks, and writes the file where it is missing or says something else. A new MTU reaches
    /// containers that start from now on.
    pub fn keep(&mut self, overlay_mtu: Option<u32>) {
        if let Some(mtu) = overlay_mtu.and_then(|mtu| Mtu::try_from(mtu).ok()) {
            self.env.mtu = mtu;
        }
        let path = self.path.display();
        if SubnetEnv::read(&self.path).is_ok_and(|found| found == self.env) {
            self.state = Ok(path.to_string());
            return;
        }
        let state = self
            .env
            .write(&self.path)
            .map(|()| path.to_string())
            .map_err(|error| format!("{path}: {error}; see --subnet-file"));
        match &state {
            Ok(_) => info!(%path, "subnet.env written"),
            Err(error) if self.state.as_ref().err() != Some(error) => {
                warn!(error, "subnet.env was not written: will retry");
            }
            Err(_) => {}
        }
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_it_away_gets_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flannel/subnet.env");
        let env = SubnetEnv {
            network: "10.1.0.0/16".parse().unwrap(),
            subnet: "10.1.2.0/24".parse().unwrap(),
            mtu: Mtu::try_from(1450).unwrap(),
            ip_masq: false,
        };
        let mut file = SubnetFile::new(path.clone(), env.clone());
        assert!(file.state().is_err());
        let mut check = |mtu: u32| {
            file.keep(Some(mtu));
            assert_eq!(file.state(), &Ok(path.display().to_string()));
            let found = SubnetEnv::read(&path).unwrap();
            assert_eq!((found.subnet, found.mtu.get()), (env.subnet, mtu));
        };
        check(1450);
        std::fs::remove_file(&path).unwrap();
        check(1450);
        std::fs::write(&path, "FLANNEL_SUBNET=10.9.9.1/24\n").unwrap();
        check(1450);
        check(1400);
    }

    #[test]
    fn what_cannot_be_written_is_said_with_the_flag() {
        let env = SubnetEnv::parse(
            "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.2.1/24\nFLANNEL_MTU=1450\n\
             FLANNEL_IPMASQ=true\n",
        );
        let mut file = SubnetFile::new("/proc/none/subnet.env".into(), env.unwrap());
        file.keep(None);
        let why = file.state().clone().unwrap_err();
        assert!(
            why.contains("/proc/none") && why.contains("--subnet-file"),
            "{why}"
        );
    }
}
