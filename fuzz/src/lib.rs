//! Every parser that reads what others write, as a function of any bytes.
//!
//! A target must not panic, and it checks what its parser promises: what was read is written back
//! as it was, and bad input ends with an error. `cargo xtask fuzz` runs them under an engine; what
//! once failed is in `corpus` and is an ordinary test.

mod files;
mod netlink;
mod rules;
mod store;

/// A parser under test.
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// Panics where the parser breaks a promise.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "config",
        run: store::config,
    },
    Target {
        name: "key",
        run: store::key,
    },
    Target {
        name: "value",
        run: store::value,
    },
    Target {
        name: "records",
        run: store::records,
    },
    Target {
        name: "subnet_env",
        run: files::subnet_env,
    },
    Target {
        name: "certificates",
        run: files::certificates,
    },
    Target {
        name: "iptables",
        run: rules::iptables,
    },
    Target {
        name: "nft",
        run: rules::nft,
    },
    Target {
        name: "netlink",
        run: netlink::raw,
    },
    Target {
        name: "events",
        run: netlink::events,
    },
    Target {
        name: "echoes",
        run: netlink::echoes,
    },
    Target {
        name: "filters",
        run: netlink::filters,
    },
    Target {
        name: "conntrack",
        run: netlink::conntrack,
    },
    Target {
        name: "xfrm",
        run: netlink::xfrm,
    },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
