//! Requests and answers about qdiscs and filters, as bytes.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::{Filter, Other, PRIORITY, Place, Side};
use crate::{model::net::IfIndex, netlink::raw};

/// `TCA_KIND` and `TCA_OPTIONS`.
pub(super) const KIND: u16 = 1;
pub(super) const OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's answer is the verdict, and -1 goes on with the next filter.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// `TC_H_CLSACT`, and the handle that the kernel gives that qdisc.
pub(super) const CLSACT_PARENT: u32 = 0xffff_fff1;
pub(super) const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Length of `struct tcmsg`.
const TCMSG_LEN: usize = 20;
/// `ETH_P_ALL` as it stands in `tcm_info`.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;

/// What a row of a list of filters is.
pub(super) enum Row {
    /// One of our priority and kind.
    Ours(Filter),
    /// The head of a priority's list, which comes before its filters.
    Chain,
    /// Somebody else's that runs a program.
    Program(Other),
    /// Any other of somebody else's.
    Other,
}

/// Reads a row.
pub(super) fn read(row: &[u8], side: Side) -> Option<Row> {
    let attributes = row.get(TCMSG_LEN..)?;
    let kind = text(attribute(attributes, KIND)?);
    let (handle, info) = (word(row, 8)?, word(row, 16)?);
    if kind != "bpf" {
        return Some(Row::Other);
    }
    if info >> 16 != u32::from(PRIORITY) {
        let options = attribute(attributes, OPTIONS);
        let program = options.and_then(|options| word(attribute(options, TCA_BPF_ID)?, 0));
        let link = index(row)?;
        return Some(
            program
                .filter(|_| handle != 0)
                .map_or(Row::Other, |program| {
                    Row::Program(Other {
                        link,
                        side,
                        handle,
                        info,
                        program,
                    })
                }),
        );
    }
    if handle == 0 {
        return Some(Row::Chain);
    }
    let options = attribute(attributes, OPTIONS)?;
    let place = Place {
        link: index(row)?,
        side,
        handle,
    };
    let program = word(attribute(options, TCA_BPF_ID)?, 0)?;
    Some(Row::Ours(Filter { place, program }))
}

/// `struct tcmsg`.
pub(super) fn header(link: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [link, handle, parent, info] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

pub(super) fn filter_header(place: Place) -> Vec<u8> {
    let info = u32::from(PRIORITY) << 16 | ALL_PROTOCOLS;
    header(place.link.get(), place.handle, place.side.parent(), info)
}

/// Where `struct nlmsghdr` has a request's number, which its answers bear too.
const NUMBER: usize = 8;

/// Numbers a request.
pub(super) fn number(request: &mut [u8], number: u32) {
    if let Some(place) = request.get_mut(NUMBER..NUMBER + 4) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
}

/// The number of the request that a message answers.
pub(super) fn number_of(message: &[u8]) -> Option<u32> {
    word(message, NUMBER)
}

/// Adds an attribute.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let all = raw::attributes(bytes);
    all.into_iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, value)| value)
}

fn index(row: &[u8]) -> Option<IfIndex> {
    IfIndex::try_from(word(row, 4)?).ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\0').to_owned()
}

/// The device of a qdisc that holds filters, and the qdisc's kind.
pub(super) fn hook_of(row: &[u8]) -> Option<(IfIndex, String)> {
    let kind = text(attribute(row.get(TCMSG_LEN..)?, KIND)?);
    matches!(kind.as_str(), "clsact" | "ingress").then_some((index(row)?, kind))
}

/// What makes a filter run a program.
pub(super) fn program_options(program: BorrowedFd<'_>, name: &str) -> Vec<u8> {
    let mut options = Vec::new();
    let direct = TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes();
    put(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    put(&mut options, TCA_BPF_NAME, format!("{name}\0").as_bytes());
    put(&mut options, TCA_BPF_FLAGS, &direct);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(info: u32, handle: u32, kind: &[u8], options: &[u8]) -> Vec<u8> {
        let mut row = header(7, handle, Side::Egress.parent(), info);
        put(&mut row, KIND, kind);
        put(&mut row, OPTIONS, options);
        row
    }

    #[test]
    fn only_filters_of_our_priority_and_kind_are_ours() {
        let mut options = Vec::new();
        put(&mut options, TCA_BPF_NAME, b"from_uplink\0");
        put(&mut options, TCA_BPF_ID, &42u32.to_ne_bytes());
        let ours = u32::from(PRIORITY) << 16 | ALL_PROTOCOLS;
        let found = read(&row(ours, 0x103, b"bpf\0", &options), Side::Egress);
        let Some(Row::Ours(Filter { place, program })) = found else {
            panic!("not ours");
        };
        assert_eq!((place.link.get(), place.handle, program), (7, 0x103, 42));
        assert_eq!(place.side, Side::Egress);
        let info = 1 << 16 | 3;
        let found = read(&row(info, 0x103, b"bpf\0", &options), Side::Egress);
        let Some(Row::Program(other)) = found else {
            panic!("no program of others");
        };
        assert_eq!((other.link.get(), other.handle), (7, 0x103));
        assert_eq!((other.info, other.program), (info, 42));
        for (info, handle, kind) in [(ours, 1, &b"u32\0"[..]), (info, 0, b"bpf\0")] {
            let found = read(&row(info, handle, kind, &options), Side::Egress);
            assert!(matches!(found, Some(Row::Other)), "{info:#x}");
        }
        let head = read(&row(ours, 0, b"bpf\0", &[]), Side::Egress);
        assert!(matches!(head, Some(Row::Chain)));
    }
}
