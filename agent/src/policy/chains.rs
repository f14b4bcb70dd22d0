//! Rules of iptables and nftables in one form: chains of rules with conditions that are understood,
//! or known not to be.

use std::{collections::BTreeMap, ops::RangeInclusive};

use ipnet::Ipv4Net;

/// A table and its chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// How a person finds it, as in `iptables -t raw` or `nft inet firewalld`.
    pub name: String,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
}

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it, unless only other chains lead to it.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// What makes a chain one that packets enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// What sees packets there.
    pub layer: Layer,
    /// What comes to its end is dropped.
    pub drops: bool,
}

/// A place in the kernel's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before the routing decision.
    Prerouting,
    /// To the host itself.
    Input,
    /// Through the host.
    Forward,
    /// From the host itself.
    Output,
    /// After the routing decision.
    Postrouting,
    /// At a device, inwards or outwards.
    Device,
}

/// Which packets a chain sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// IP packets.
    Ip,
    /// Frames on a bridge.
    Bridge,
    /// Frames at these devices; none when they are not known.
    Devices(Vec<String>),
}

/// Conditions and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub when: Vec<Condition>,
    /// What follows.
    pub then: Action,
    /// As a person knows it.
    pub text: String,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Goes on to the next rule: counted, logged, marked.
    Continue,
    /// Leaves the hook.
    Accept,
    /// Back to the chain that led here.
    Return,
    /// Into another chain, and back after it.
    Jump(String),
    /// Into another chain, and from its end to where this one was called.
    Goto(String),
    /// Dropped, answered with an error, handed to somebody, or something that is not understood.
    Stop,
}

/// A condition. The flag says that it is turned around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The source is in one of these.
    Source(bool, Vec<Ipv4Net>),
    /// The destination is in one of these.
    Destination(bool, Vec<Ipv4Net>),
    /// Came in by one of these; a last `+` or `*` stands for any ending.
    Input(bool, Vec<String>),
    /// Leaves by one of these.
    Output(bool, Vec<String>),
    /// One of these IP protocols.
    Protocol(bool, Vec<u8>),
    /// UDP or TCP to one of these ports.
    DestinationPort(bool, Vec<RangeInclusive<u16>>),
    /// IPv6, ARP and the like.
    NotIpv4,
    /// Connection tracking cannot make sense of the packet, and nothing else is asked.
    Invalid,
    /// Not understood: may hold, or not.
    Unclear,
}
