//! What `weft status` says. The JSON form is a contract: fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::reconcile::pulse::Hung;

/// Name and version of the JSON form.
pub const SCHEMA: &str = "weft/status/v1";

/// State of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// Lease held, `subnet.env` written, every known peer and the rules attempted, programs attached.
    pub ready: bool,
    /// What moves the packets, and why.
    pub mode: Mode,
    /// The whole overlay.
    pub network: Option<String>,
    /// This host's subnet.
    pub subnet: Option<String>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// This host's VTEP address.
    pub vtep: Option<String>,
    /// This host's VTEP MAC.
    pub mac: Option<String>,
    /// Interface of the underlay.
    pub uplink: Option<String>,
    /// MTU of the overlay.
    pub mtu: Option<u32>,
    /// Parts of the agent, each with its own verdict.
    pub components: Vec<Component>,
    /// Peers that are programmed.
    pub peers: usize,
    /// Local containers that are known.
    pub endpoints: usize,
    /// Leases that are left out, and records that cannot be read.
    pub ignored: Vec<Ignored>,
    /// Everything that the store had said up to this revision is in place; none while something
    /// is not.
    #[serde(default)]
    pub applied_revision: Option<i64>,
    /// Operations that repaired or changed something since the start.
    pub operations: u64,
    /// Process of the agent.
    pub pid: u32,
}

/// What moves the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// `ebpf` or `kernel`.
    pub datapath: String,
    /// `on` or `off`.
    pub fast_path: String,
    /// Why it is so.
    pub why: String,
    /// How the programs are attached, and why so: `TCX (...)` or `clsact (...)`; empty without
    /// programs.
    #[serde(default)]
    pub attach: String,
}

/// A part of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Stable name.
    pub name: String,
    /// Whether it does what it should.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

/// Something in the store that is no peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ignored {
    /// Subnet or key.
    pub what: String,
    /// Why it is left out.
    pub why: String,
}

impl Component {
    /// A part that does what it should.
    pub fn good(name: &str, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            ok: true,
            detail: detail.into(),
        }
    }

    /// A part that does not.
    pub fn bad(name: &str, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            ok: false,
            detail: detail.into(),
        }
    }
}

impl Status {
    /// What can be said where no agent answers.
    #[must_use]
    pub fn of_nobody(why: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            components: vec![Component::bad("agent", why)],
            ..Self::default()
        }
    }

    /// With what the tasks' signs of life say at this moment.
    #[must_use]
    pub fn with_tasks(mut self, hung: &[Hung]) -> Self {
        let named: Vec<String> = hung.iter().map(ToString::to_string).collect();
        self.components.push(if named.is_empty() {
            Component::good("tasks", "alive")
        } else {
            Component::bad("tasks", named.join("; "))
        });
        self
    }

    /// With what goes on where no agent answers.
    #[must_use]
    pub fn with_data_path(mut self, works: bool, detail: impl Into<String>) -> Self {
        self.components.push(Component {
            name: "data_path".to_owned(),
            ok: works,
            detail: detail.into(),
        });
        self
    }

    /// For a person.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        let degraded = self.components.iter().any(|component| !component.ok);
        lines.push(match (self.ready, degraded) {
            (true, false) => "ready".to_owned(),
            (true, true) => "ready, degraded".to_owned(),
            (false, _) => "not ready".to_owned(),
        });
        let Mode {
            datapath,
            fast_path,
            why,
            attach,
        } = &self.mode;
        lines.push(format!(
            "mode      {datapath}, fast path {fast_path} ({why})"
        ));
        if !attach.is_empty() {
            lines.push(format!("attach    {attach}"));
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
        lines.push(format!("network   {}", text(&self.network)));
        lines.push(format!("subnet    {}", text(&self.subnet)));
        lines.push(format!(
            "vtep      {} {} on {}",
            text(&self.vtep),
            text(&self.mac),
            text(&self.uplink)
        ));
        lines.push(format!(
            "vni, mtu  {}, {}",
            number(self.vni),
            number(self.mtu)
        ));
        lines.push(format!("peers     {}", self.peers));
        lines.push(format!("endpoints {}", self.endpoints));
        for Component { name, ok, detail } in &self.components {
            let verdict = if *ok { "ok" } else { "NOT OK" };
            lines.push(format!("{name:<12} {verdict:<6} {detail}"));
        }
        for Ignored { what, why } in &self.ignored {
            lines.push(format!("ignored   {what}: {why}"));
        }
        lines.join("\n")
    }
}
