//! Programs as classic filters (`tc filter`): the clsact qdisc of a device and what hangs in it.
//! Calls block for as long as the kernel takes: they belong to the programs' side, as all of it.

mod wire;

use std::{cell::Cell, collections::BTreeMap, fmt, io, os::fd::BorrowedFd, time::Duration};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use self::wire::{
    CLSACT_HANDLE, CLSACT_PARENT, Row, filter_header, hook_of, program_options, put, read,
};
use super::{
    NetlinkError,
    raw::{self, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR},
};
use crate::model::net::IfIndex;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// The priority of our filters: rare, so that it is known by, and before what the kernel hands out.
pub const PRIORITY: u16 = 0x7765;

/// The kernel answers at once; an answer that takes longer is lost.
const ANSWER: i64 = Duration::from_secs(10).as_secs().cast_signed();

/// A side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// Where a filter of ours is, and which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The device.
    pub link: IfIndex,
    /// Its side.
    pub side: Side,
    /// Our own number: one filter each.
    pub handle: u32,
}

/// A filter with our priority: its place, and its program's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Where it is.
    pub place: Place,
    /// The program.
    pub program: u32,
}

/// A filter of another priority that runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Other {
    /// The device.
    pub link: IfIndex,
    /// Its side.
    pub side: Side,
    /// Its number within its priority.
    pub handle: u32,
    /// Priority and protocol, as the kernel has them.
    pub info: u32,
    /// The program.
    pub program: u32,
}

/// A connection to the kernel, in the network namespace that it was opened in.
pub struct Clsact {
    socket: Socket,
    /// Number of the last request. An answer that came too late must not be the next one's.
    last: Cell<u32>,
}

impl fmt::Debug for Clsact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clsact").finish_non_exhaustive()
    }
}

impl Clsact {
    /// Opens a connection.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER))?;
            Ok(socket)
        };
        open()
            .map(|socket| Self {
                socket,
                last: Cell::new(0),
            })
            .map_err(failed("open a netlink socket for filters"))
    }

    /// Devices that have a qdisc of the kind `clsact` or `ingress`, with the kind.
    pub fn hooked(&self) -> Result<BTreeMap<IfIndex, String>, NetlinkError> {
        let request = wire::header(0, 0, 0, 0);
        let rows = self
            .ask(RTM_GETQDISC, NLM_F_DUMP, &request)
            .map_err(failed("read queueing disciplines"))?;
        Ok(rows.iter().filter_map(|row| hook_of(row)).collect())
    }

    /// Makes sure that filters can hang at a device; answers whether the qdisc is new. A qdisc
    /// `ingress` of others will do for that side.
    pub fn prepare(&self, link: IfIndex, side: Side) -> Result<bool, NetlinkError> {
        let call = format!("make clsact of link {link}");
        let mut request = wire::header(link.get(), CLSACT_HANDLE, CLSACT_PARENT, 0);
        put(&mut request, wire::KIND, b"clsact\0");
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.ask(RTM_NEWQDISC, flags, &request) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                if side == Side::Egress && self.hooked()?.get(&link).is_some_and(|k| k != "clsact")
                {
                    let why = "it has the qdisc `ingress`, which has no egress side: \
                               replace it by `clsact`";
                    return Err(failed(format!("{call}: {why}"))(error));
                }
                Ok(false)
            }
            Err(error) => Err(failed(lacking(call, "NET_SCH_INGRESS", &error))(error)),
        }
    }

    /// Removes the qdisc clsact, and all filters in it.
    pub fn remove(&self, link: IfIndex) -> Result<(), NetlinkError> {
        let request = wire::header(link.get(), CLSACT_HANDLE, CLSACT_PARENT, 0);
        gone_is_well(self.ask(RTM_DELQDISC, NLM_F_ACK, &request))
            .map_err(failed(format!("remove clsact of link {link}")))
    }

    /// Hangs a program up, or replaces the one that hangs there; no packet misses both.
    pub fn put(
        &self,
        place: Place,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let mut request = filter_header(place);
        put(&mut request, wire::KIND, b"bpf\0");
        put(&mut request, wire::OPTIONS, &program_options(program, name));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let call = format!("put filter {name} at link {}", place.link);
        self.ask(RTM_NEWTFILTER, flags, &request)
            .map(drop)
            .map_err(|error| failed(lacking(call, "NET_CLS_BPF", &error))(error))
    }

    /// Takes a filter off.
    pub fn delete(&self, place: Place) -> Result<(), NetlinkError> {
        let mut request = filter_header(place);
        put(&mut request, wire::KIND, b"bpf\0");
        gone_is_well(self.ask(RTM_DELTFILTER, NLM_F_ACK, &request)).map_err(failed(format!(
            "remove filter {:#x} of link {}",
            place.handle, place.link
        )))
    }

    /// The filters of our priority at a side of a device, and how many others there are.
    pub fn filters(&self, link: IfIndex, side: Side) -> Result<(Vec<Filter>, usize), NetlinkError> {
        let rows = self.rows(link, side)?;
        let mut ours = Vec::new();
        let mut others = 0;
        for row in &rows {
            match read(row, side) {
                Some(Row::Ours(filter)) => ours.push(filter),
                Some(Row::Chain) => {}
                Some(Row::Program(_) | Row::Other) | None => others += 1,
            }
        }
        Ok((ours, others))
    }

    /// The filters of other priorities that run programs.
    pub fn programs_of_others(
        &self,
        link: IfIndex,
        side: Side,
    ) -> Result<Vec<Other>, NetlinkError> {
        let rows = self.rows(link, side)?;
        let found = rows.iter().filter_map(|row| match read(row, side)? {
            Row::Program(other) => Some(other),
            Row::Ours(_) | Row::Chain | Row::Other => None,
        });
        Ok(found.collect())
    }

    /// Takes such a one off.
    pub fn delete_other(&self, other: &Other) -> Result<(), NetlinkError> {
        let (link, side) = (other.link.get(), other.side.parent());
        let mut request = wire::header(link, other.handle, side, other.info);
        put(&mut request, wire::KIND, b"bpf\0");
        let answer = self.ask(RTM_DELTFILTER, NLM_F_ACK, &request);
        gone_is_well(answer).map_err(failed(format!("remove a filter of link {link}")))
    }

    fn rows(&self, link: IfIndex, side: Side) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let request = wire::header(link.get(), 0, side.parent(), 0);
        match self.ask(RTM_GETTFILTER, NLM_F_DUMP, &request) {
            // The hook has no such side, or the device is gone.
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            other => other.map_err(failed(format!("read filters of link {link}"))),
        }
    }

    /// Sends a request and returns the bodies of its answers.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let number = self.last.get().wrapping_add(1);
        self.last.set(number);
        let mut request = raw::request(kind, flags, body);
        wire::number(&mut request, number);
        self.socket.send(&request, 0)?;
        let mut rows = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some((kind, _, body, next)) = raw::message(rest) {
                match kind {
                    _ if wire::number_of(rest) != Some(number) => {}
                    NLMSG_DONE | NLMSG_ERROR => return raw::outcome(body).map(|()| rows),
                    _ => rows.push(body.to_vec()),
                }
                rest = next;
            }
        }
    }
}

fn failed(call: impl Into<String>) -> impl FnOnce(io::Error) -> NetlinkError {
    let call = call.into();
    |source| NetlinkError { call, source }
}

/// Names the part that a kernel which does not know a kind was built without.
fn lacking(call: String, part: &str, error: &io::Error) -> String {
    if error.raw_os_error() == Some(libc::ENOENT) {
        format!("{call}: the kernel has no CONFIG_{part}, or its module is missing")
    } else {
        call
    }
}

fn gone_is_well(answer: io::Result<Vec<Vec<u8>>>) -> io::Result<()> {
    match answer {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// How the kernel says that there is no such filter, qdisc or device.
fn is_gone(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::ENOENT, libc::EINVAL, libc::ENODEV].contains(&code))
}
/// Any bytes as a row.
#[cfg(feature = "fakes")]
pub fn read_any(row: &[u8]) {
    for side in Side::ALL {
        let _ = read(row, side);
    }
    drop(hook_of(row));
    let _ = wire::number_of(row);
}
