//! Rules that choose a routing table (`ip rule`).

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAttribute, RuleFlags, RuleMessage},
};

use super::calls::{Calls, is};
use crate::netlink::{NetlinkError, ObservedHost, RoutingRule};

/// Local, main and default table, on every host.
const STANDARD: [u32; 3] = [0, 32766, 32767];

pub(super) async fn observe(calls: &Calls, host: &mut ObservedHost) -> Result<(), NetlinkError> {
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let dumped = calls
        .dump("read routing rules", RouteNetlinkMessage::GetRule(request))
        .await;
    let rows = match dumped {
        // A kernel without policy routing.
        Err(error) if is(&error, &[libc::EOPNOTSUPP, libc::EAFNOSUPPORT]) => return Ok(()),
        other => other?,
    };
    for row in rows {
        if let RouteNetlinkMessage::NewRule(message) = row {
            host.rules.extend(read(&message));
        }
    }
    Ok(())
}

/// `None` for rules that do not choose among packets.
fn read(message: &RuleMessage) -> Option<RoutingRule> {
    let header = &message.header;
    let mut rule = RoutingRule {
        priority: 0,
        source: None,
        destination: None,
        protocol: None,
        input: None,
        inverted: header.flags.contains(RuleFlags::Invert),
    };
    let mut chooses = header.tos != 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(IpAddr::V4(from)) => {
                rule.source = Ipv4Net::new(*from, header.src_len).ok();
                chooses = true;
            }
            RuleAttribute::Destination(IpAddr::V4(to)) => {
                rule.destination = Ipv4Net::new(*to, header.dst_len).ok();
                chooses = true;
            }
            RuleAttribute::IpProtocol(protocol) => {
                rule.protocol = Some(i32::from(*protocol).try_into().unwrap_or(0));
                chooses = true;
            }
            RuleAttribute::Iifname(name) => {
                rule.input = Some(name.clone());
                chooses = true;
            }
            RuleAttribute::FwMark(_)
            | RuleAttribute::FwMask(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::Other(_) => chooses = true,
            _ => {}
        }
    }
    (chooses && !STANDARD.contains(&rule.priority)).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.src_len = 24;
        message.attributes = attributes;
        message
    }

    #[test]
    fn rules_that_choose_are_kept() {
        use RuleAttribute::{FwMark, Iifname, Priority, Source, Table};
        for (attributes, kept) in [
            (vec![Priority(32766), Table(254)], false),
            (vec![Priority(100), Table(7)], false),
            (vec![Priority(100), FwMark(5), Table(7)], true),
            (vec![Priority(100), Iifname("eth1".to_owned())], true),
            (
                vec![Priority(100), Source(IpAddr::from([10, 0, 0, 0]))],
                true,
            ),
        ] {
            assert_eq!(
                read(&message(attributes.clone())).is_some(),
                kept,
                "{attributes:?}"
            );
        }
        let rule = read(&message(vec![Source(IpAddr::from([10, 0, 0, 0]))]));
        // Without a priority it is the first: that of the local table, which all hosts have.
        assert_eq!(rule, None);
    }
}
