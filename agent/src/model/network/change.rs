//! What a changed network config means for an agent that runs. Pure.

use std::fmt::Display;

use super::NetworkConfig;

/// A changed config, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the agent goes on with: the config of its start, with what can change while it runs.
    pub live: NetworkConfig,
    /// What differs and only a restart can follow: each with its old and its new value.
    pub restart: Vec<String>,
}

impl NetworkConfig {
    /// What of `new` an agent that was started with `self` can follow. Containers have addresses,
    /// and peers send packets, by all the rest.
    #[must_use]
    pub fn changed_to(&self, new: &Self) -> Change {
        let Self {
            network,
            subnet_len,
            subnet_min,
            subnet_max,
            vni,
            port,
            underlay_mtu,
            gbp,
            learning,
            direct_routing,
            nftables,
        } = new;
        let mut differences = Differences(Vec::new());
        differences.note("Network", self.network, network);
        differences.note("SubnetLen", self.subnet_len, subnet_len);
        differences.note("Backend.VNI", self.vni, vni);
        differences.note("Backend.Port", self.port, port);
        let mtu = |mtu: &Option<_>| match mtu {
            Some(mtu) => format!("{mtu}"),
            None => "the uplink's".to_owned(),
        };
        differences.note("Backend.MTU", mtu(&self.underlay_mtu), &mtu(underlay_mtu));
        differences.note("Backend.GBP", self.gbp, gbp);
        differences.note("Backend.Learning", self.learning, learning);
        differences.note("EnableNFTables", self.nftables, nftables);
        let mut live = Self {
            direct_routing: *direct_routing,
            ..self.clone()
        };
        // Limits of another range are none of ours.
        if (self.network, self.subnet_len) == (*network, *subnet_len) {
            (live.subnet_min, live.subnet_max) = (*subnet_min, *subnet_max);
        }
        Change {
            live,
            restart: differences.0,
        }
    }
}

struct Differences(Vec<String>);

impl Differences {
    fn note<T: Display + PartialEq>(&mut self, name: &str, old: T, new: &T) {
        if old != *new {
            self.0.push(format!("{name} {old} is now {new}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(members: &str, backend: &str) -> NetworkConfig {
        let text = format!(r#"{{{members},"Backend":{{"Type":"vxlan"{backend}}}}}"#);
        NetworkConfig::parse(&text).unwrap()
    }

    const NETWORK: &str = r#""Network":"10.3.0.0/16""#;

    #[test]
    fn what_is_the_same_changes_nothing() {
        let started = config(NETWORK, "");
        let again = started.changed_to(&config(NETWORK, r#","VNI":1,"Port":8472"#));
        assert_eq!((&again.live, again.restart.len()), (&started, 0));
    }

    #[test]
    fn limits_and_direct_routing_are_followed() {
        let members = format!(r#"{NETWORK},"SubnetMin":"10.3.7.0","SubnetMax":"10.3.9.0""#);
        let new = config(&members, r#","DirectRouting":true"#);
        let change = config(NETWORK, "").changed_to(&new);
        assert_eq!((&change.live, change.restart.len()), (&new, 0));
    }

    #[test]
    fn all_the_rest_needs_a_restart() {
        let started = config(NETWORK, "");
        for (members, backend, told) in [
            (
                r#""Network":"10.4.0.0/16""#,
                "",
                "Network 10.3.0.0/16 is now 10.4.0.0/16",
            ),
            (
                r#""Network":"10.3.0.0/16","SubnetLen":25"#,
                "",
                "SubnetLen 24 is now 25",
            ),
            (NETWORK, r#","VNI":2"#, "Backend.VNI 1 is now 2"),
            (NETWORK, r#","Port":4789"#, "Backend.Port 8472 is now 4789"),
            (
                NETWORK,
                r#","MTU":1400"#,
                "Backend.MTU the uplink's is now 1400",
            ),
            (NETWORK, r#","GBP":true"#, "Backend.GBP false is now true"),
            (
                NETWORK,
                r#","Learning":true"#,
                "Backend.Learning false is now true",
            ),
            (
                r#""Network":"10.3.0.0/16","EnableNFTables":true"#,
                "",
                "EnableNFTables false is now true",
            ),
        ] {
            let change = started.changed_to(&config(members, backend));
            assert_eq!(change.restart, [told]);
            assert_eq!(change.live, started, "{told}");
        }
    }

    #[test]
    fn what_can_be_followed_is_even_where_the_rest_cannot() {
        let started = config(NETWORK, "");
        let new = config(NETWORK, r#","VNI":2,"DirectRouting":true"#);
        let change = started.changed_to(&new);
        assert_eq!(change.restart.len(), 1);
        assert!(change.live.direct_routing);
        assert_eq!(change.live.vni, started.vni);
    }
}
