//! Counters: for each hook, how many packets met which fate.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `COUNTERS`. Never reset.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Count {
    /// Packets, an aggregate counting as one.
    pub packets: u64,
    /// Their bytes as the hook saw them, link-layer header included.
    pub bytes: u64,
}

/// What became of a packet that the stack or the kernel's own path goes on with, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Redirected by our program.
    Taken,
    /// Left to the kernel, and not a packet that the fast path is for.
    Passed,
    /// Left to the kernel although it was plain and between two hosts' subnets.
    Missed,
    /// Dropped: no legitimate sender can have sent it.
    Dropped,
    /// Written into the record of the stack's flows; the packet went on untouched.
    Recorded,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $fate:ident;)+) => {
        /// Why a packet met its fate. The number is the counter's place: part of the ABI.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// Stable name, as in `weft dump counters`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name),+ }
            }

            /// What the reason means for the packet.
            #[must_use]
            pub const fn fate(self) -> Fate {
                match self { $(Reason::$variant => Fate::$fate),+ }
            }
        }
    };
}

reasons! {
    /// Encapsulated and sent, or decapsulated and delivered, by the program.
    Taken = 0, "taken", Taken;
    /// The same for an aggregate (`gso_size` not zero).
    TakenAggregate = 1, "taken_aggregate", Taken;
    /// Not IPv4.
    NotIpv4 = 2, "not_ipv4", Passed;
    /// Carries a VLAN tag.
    Vlan = 3, "vlan", Passed;
    /// Way out: not addressed to a peer's subnet. Way in: not addressed to our VTEP.
    NotOverlay = 4, "not_overlay", Passed;
    /// The destination MAC is not the one that would make it ours to route.
    OtherMac = 5, "other_mac", Passed;
    /// The inner header has options.
    IpOptions = 6, "ip_options", Passed;
    /// A fragment, inside or outside.
    Fragment = 7, "fragment", Passed;
    /// TTL too small to be routed: the kernel answers.
    TtlExpiring = 8, "ttl_expiring", Passed;
    /// Does not fit an MTU on its way: the kernel fragments or answers.
    TooBig = 9, "too_big", Passed;
    /// Truncated, or lengths or header checksum wrong: the kernel judges.
    BadHeader = 10, "bad_header", Passed;
    /// Another VNI, or VXLAN header bits that we do not use.
    OtherVxlan = 11, "other_vxlan", Passed;
    /// For one of the host's own addresses.
    HostTraffic = 12, "host_traffic", Passed;
    /// An aggregate on the uplink: the kernel decapsulates it and `from_overlay` delivers it.
    Aggregate = 13, "aggregate", Passed;
    /// The outer congestion mark cannot be merged into the inner packet: the kernel drops it.
    EcnConflict = 14, "ecn_conflict", Passed;
    /// The agent has not filled the settings yet.
    NotReady = 15, "not_ready", Passed;
    /// A source outside our subnet, towards a peer's.
    ForeignSource = 16, "foreign_source", Passed;
    /// A kind of aggregate that the helpers cannot carry.
    OtherAggregate = 17, "other_aggregate", Passed;
    /// The fast path is off.
    FastPathOff = 18, "fast_path_off", Missed;
    /// The sending container is not (yet) known, so the way back is not ready.
    NoSourceEndpoint = 19, "no_source_endpoint", Missed;
    /// The source address belongs to another port or MAC.
    WrongPort = 20, "wrong_port", Missed;
    /// The receiving container is not (yet) known.
    NoEndpoint = 21, "no_endpoint", Missed;
    /// The stack carries this flow.
    RecordedFlow = 22, "recorded_flow", Missed;
    /// The record of the stack's flows has no room.
    FlowsFull = 23, "flows_full", Missed;
    /// This peer is reached by the kernel path only.
    PeerKernelOnly = 24, "peer_kernel_only", Missed;
    /// A helper would not grow or shrink the packet.
    HelperRefused = 25, "helper_refused", Missed;
    /// The port's kind cannot be delivered to directly.
    PortKind = 26, "port_kind", Missed;
    /// Tunnel packet from an address that is no peer's VTEP.
    DropUnknownPeer = 27, "drop_unknown_peer", Dropped;
    /// Inner source outside the sender's own lease.
    DropSpoofedInner = 28, "drop_spoofed_inner", Dropped;
    /// Inner destination outside our subnet.
    DropNotOurs = 29, "drop_not_ours", Dropped;
    /// A flow of the stack without NAT was recorded or confirmed.
    Recorded = 30, "recorded", Recorded;
    /// A flow of the stack with NAT was recorded or confirmed.
    RecordedNat = 31, "recorded_nat", Recorded;
    /// The record had no room.
    RecordFailed = 32, "record_failed", Recorded;
    /// Conntrack does not follow this packet: nothing to record.
    Untracked = 33, "untracked", Recorded;
    /// No flow between a container of ours and a peer's subnet.
    NoFlow = 34, "no_flow", Recorded;
    /// A port's program has passed the packet on: the bridge's leaves it alone.
    PortPassed = 35, "port_passed", Passed;
    /// A container sent into the overlay from a source outside its host's subnet.
    DropForeignSource = 36, "drop_foreign_source", Dropped;
    /// A container sent a tunnel packet to this host or to a peer.
    DropContainerTunnel = 37, "drop_container_tunnel", Dropped;
    /// A port's program entered an endpoint that it heard of by ARP.
    Provisional = 38, "provisional_endpoint", Passed;
    /// The guard's mode lets it through: the kernel takes it.
    Unguarded = 39, "unguarded", Passed;
    /// The outer UDP checksum is there, and nobody has verified it: the kernel does.
    UdpChecksum = 40, "udp_checksum", Passed;
    /// The kernel had no memory to write the headers that it had made room for.
    DropNoMemory = 41, "drop_no_memory", Dropped;
    /// Tags of VLAN 0 around what the stack would take without them: nobody sends that.
    DropTagged = 42, "drop_tagged", Dropped;
    /// Something on the container's port is meant to see its packets: shaping, another program.
    PortKept = 43, "port_kept", Passed;
    /// From a peer, by another device than the one that the way to it leaves by: the kernel asks
    /// its own questions there.
    OtherDevice = 44, "other_device", Passed;
    /// From or to an address of a subnet that was this host's and is not any more.
    DropSubnetLost = 45, "drop_subnet_lost", Dropped;
    /// To a container, without a tunnel, from an address of the overlay that no peer has.
    DropSpoofedPlain = 46, "drop_spoofed_plain", Dropped;
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)+) => {
        /// Where a program hangs. Names a program, a group of counters and a pin.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Hook {
            $($(#[$doc])* $variant = $number,)+
        }

        impl Hook {
            /// Every hook, in the order of its number.
            pub const ALL: &'static [Hook] = &[$(Hook::$variant),+];

            /// Name of the program, within the kernel's 15 bytes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Hook::$variant => $name),+ }
            }

            /// The hook whose program has that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Hook::$variant),)+ _ => None }
            }
        }
    };
}

hooks! {
    /// Ingress of a bridge port.
    FromContainer = 0, "from_container";
    /// Ingress of a bridge, for ports that could not be hooked.
    FromBridge = 1, "from_bridge";
    /// Ingress of the uplink.
    FromUplink = 2, "from_uplink";
    /// Ingress of `flannel.<VNI>`.
    FromOverlay = 3, "from_overlay";
    /// Egress of a bridge port: records flows.
    ToContainer = 4, "to_container";
    /// Egress of `flannel.<VNI>`, and of the uplink with `DirectRouting`: records flows.
    ToOverlay = 5, "to_overlay";
}

/// Counters that each hook has room for.
pub const REASONS: u32 = 48;
/// Entries of `COUNTERS`.
pub const COUNTERS_LEN: u32 = REASONS * 6;

const _: () = assert!(Reason::ALL.len() <= 48 && Hook::ALL.len() == 6);
const _: () = assert!(size_of::<Count>() == 16);

/// Place of a counter in `COUNTERS`.
#[must_use]
pub const fn index(hook: Hook, reason: Reason) -> u32 {
    hook as u32 * REASONS + reason as u32
}
