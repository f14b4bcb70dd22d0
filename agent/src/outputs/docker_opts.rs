//! Options for Docker's daemon, as flannel's `mk-docker-opts.sh` writes them.

use super::subnet_env::SubnetEnv;

/// The name of the combined variable when none is given.
pub const DEFAULT_KEY: &str = "DOCKER_OPTS";

/// What to write; with neither `individual` nor `combined`, both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOpts {
    /// One variable an option (`-i`).
    pub individual: bool,
    /// One variable with all options (`-c`).
    pub combined: bool,
    /// The name of that one (`-k`).
    pub key: String,
    /// Leave the masquerading option out (`-m`).
    pub skip_ipmasq: bool,
}

/// The key cannot be the name of a variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a variable: use letters, digits and `_`, for example `DOCKER_OPTS`")]
pub struct KeyError(String);

impl Default for DockerOpts {
    fn default() -> Self {
        Self {
            individual: false,
            combined: false,
            key: DEFAULT_KEY.to_owned(),
            skip_ipmasq: false,
        }
    }
}

/// The text of the file.
pub fn render(env: &SubnetEnv, opts: &DockerOpts) -> Result<String, KeyError> {
    let DockerOpts {
        individual,
        combined,
        key,
        skip_ipmasq,
    } = opts;
    let names_a_variable = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !names_a_variable {
        return Err(KeyError(key.clone()));
    }
    let both = individual == combined;
    // In the order of the alphabet, as the shell lists variables.
    let mut options = vec![("BIP", format!("--bip={}", env.bridge()))];
    if !skip_ipmasq {
        // When the agent masquerades, Docker must not, and the other way round.
        options.push(("IPMASQ", format!("--ip-masq={}", !env.ip_masq)));
    }
    options.push(("MTU", format!("--mtu={}", env.mtu)));

    let mut text = String::new();
    if *individual || both {
        for (name, option) in &options {
            text.push_str(&format!("DOCKER_OPT_{name}=\"{option}\"\n"));
        }
    }
    if *combined || both {
        let all: String = options
            .iter()
            .map(|(_, option)| format!(" {option}"))
            .collect();
        text.push_str(&format!("{key}=\"{all}\"\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(ip_masq: bool) -> SubnetEnv {
        let text = format!(
            "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ={ip_masq}\n"
        );
        SubnetEnv::parse(&text).unwrap()
    }

    const INDIVIDUAL: &str = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n";
    const COMBINED: &str = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";

    #[test]
    fn the_text_is_the_scripts() {
        let render = |opts: DockerOpts| render(&env(false), &opts).unwrap();
        let default = DockerOpts::default;
        assert_eq!(render(default()), format!("{INDIVIDUAL}{COMBINED}"));
        let both = DockerOpts {
            individual: true,
            combined: true,
            ..default()
        };
        assert_eq!(render(both), format!("{INDIVIDUAL}{COMBINED}"));
        assert_eq!(
            render(DockerOpts {
                individual: true,
                ..default()
            }),
            INDIVIDUAL
        );
        assert_eq!(
            render(DockerOpts {
                combined: true,
                ..default()
            }),
            COMBINED
        );
        let named = DockerOpts {
            combined: true,
            key: "DOCKER_NETWORK_OPTIONS".into(),
            ..default()
        };
        assert_eq!(
            render(named),
            COMBINED.replace("DOCKER_OPTS", "DOCKER_NETWORK_OPTIONS")
        );
        let without = DockerOpts {
            skip_ipmasq: true,
            ..default()
        };
        assert_eq!(
            render(without),
            "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\nDOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"
        );
    }

    #[test]
    fn masquerading_is_left_to_one_of_the_two() {
        let text = render(&env(true), &DockerOpts::default()).unwrap();
        assert!(text.contains("--ip-masq=false"), "{text}");
    }

    #[test]
    fn a_key_that_no_shell_takes_is_refused() {
        for key in ["", "1X", "A B", "A=B", "A\nB", "Ä"] {
            let opts = DockerOpts {
                key: key.to_owned(),
                ..DockerOpts::default()
            };
            assert_eq!(render(&env(true), &opts), Err(KeyError(key.to_owned())));
        }
    }
}
