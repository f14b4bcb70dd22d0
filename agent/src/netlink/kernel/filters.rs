//! Filters at the classic hooks of devices (`tc filter`), which ours would run before, or skip.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use weft_common::stats::Hook;

use super::calls::{Calls, is};
use crate::{
    model::net::IfIndex,
    netlink::{NetlinkError, ObservedHost, Side, clsact::PRIORITY},
};

/// Queueing disciplines that hold nothing but filters.
const HOOKS: [&str; 2] = ["clsact", "ingress"];
/// Ingress (the whole of `ingress`, one half of `clsact`) and egress.
const SIDES: [(u16, Side); 3] = [
    (0, Side::Ingress),
    (0xfff2, Side::Ingress),
    (0xfff3, Side::Egress),
];

pub(super) async fn observe(calls: &Calls, host: &mut ObservedHost) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let rows = calls.dump("read queueing disciplines", request).await?;
    let mut hooked = BTreeSet::new();
    for row in rows {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = row else {
            continue;
        };
        let known = index(&message).filter(|link| host.links.contains_key(link));
        if kind(&message).is_some_and(|kind| HOOKS.contains(&kind)) {
            hooked.extend(known);
        }
    }
    let mut found = BTreeMap::new();
    for link in hooked {
        for (number, side) in SIDES {
            if let Some(kind) = first_filter(calls, link, number).await? {
                found.insert((link, side), kind);
            }
        }
    }
    host.filters = found;
    Ok(())
}

/// The kind of the first filter there that is not ours.
async fn first_filter(
    calls: &Calls,
    link: IfIndex,
    side: u16,
) -> Result<Option<String>, NetlinkError> {
    let mut request = TcMessage::default();
    request.header.index = i32::try_from(link.get()).unwrap_or_default();
    request.header.parent = TcHandle {
        major: 0xffff,
        minor: side,
    };
    let dumped = calls
        .dump(
            &format!("read filters of link {link}"),
            RouteNetlinkMessage::GetTrafficFilter(request),
        )
        .await;
    let rows = match dumped {
        // That hook has no such side, or the device is gone.
        Err(error) if is(&error, &[libc::EINVAL, libc::ENOENT, libc::ENODEV]) => return Ok(None),
        other => other?,
    };
    Ok(rows.iter().find_map(|row| match row {
        RouteNetlinkMessage::NewTrafficFilter(message) if !is_ours(message) => {
            Some(kind(message).unwrap_or("unknown").to_owned())
        }
        _ => None,
    }))
}

/// Where there is no TCX our programs are filters themselves. The head of their list, which comes
/// before them, has no handle.
fn is_ours(message: &TcMessage) -> bool {
    let priority = message.header.info >> 16;
    if priority != u32::from(PRIORITY) || kind(message) != Some("bpf") {
        return false;
    }
    let TcHandle { major, minor } = message.header.handle;
    if (major, minor) == (0, 0) {
        return true;
    }
    message.attributes.iter().any(|attribute| {
        let TcAttribute::Options(options) = attribute else {
            return false;
        };
        options.iter().any(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Hook::named(name).is_some(),
            _ => false,
        })
    })
}

fn index(message: &TcMessage) -> Option<IfIndex> {
    IfIndex::try_from(u32::try_from(message.header.index).ok()?).ok()
}

fn kind(message: &TcMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
}
