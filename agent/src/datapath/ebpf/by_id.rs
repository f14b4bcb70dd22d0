//! Links by their number: those that no pin in reach leads to. aya finds them, and stops there.
#![expect(unsafe_code, reason = "aya has no safe call for a link's number")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_DETACH: libc::c_int = 34;

/// What these calls read of `union bpf_attr`; the kernel takes the rest for zero.
#[repr(C)]
#[derive(Default)]
struct Attr {
    first: u64,
    second: u64,
}

/// Pins a link where nothing is pinned yet.
pub fn pin(link: u32, path: &Path) -> io::Result<()> {
    let link = open(link)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        first: path.as_ptr() as u64,
        second: descriptor(&link)?,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Takes a link's program off its device, whoever holds the link.
pub fn detach(link: u32) -> io::Result<()> {
    let link = open(link)?;
    let mut attr = Attr {
        first: descriptor(&link)?,
        second: 0,
    };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The device that a TCX link is at; 0 once the device is gone.
pub fn device_of(link: u32) -> io::Result<u32> {
    let link = open(link)?;
    // `struct bpf_link_info`: type, id, program, padding, and for TCX the device and the side.
    let mut info = [0_u32; 8];
    let [a, b, c, d] = u32::try_from(size_of_val(&info))
        .map_err(io::Error::other)?
        .to_ne_bytes();
    let [e, f, g, h, ..] = descriptor(&link)?.to_ne_bytes();
    let mut attr = Attr {
        first: u64::from_ne_bytes([e, f, g, h, a, b, c, d]),
        second: info.as_mut_ptr() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [_, _, _, _, device, ..] = info;
    Ok(device)
}

fn open(link: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr {
        first: low(link),
        second: 0,
    };
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn descriptor(fd: &OwnedFd) -> io::Result<u64> {
    u32::try_from(fd.as_raw_fd())
        .map(low)
        .map_err(io::Error::other)
}

/// A `__u32` that comes first in eight bytes.
const fn low(word: u32) -> u64 {
    let [a, b, c, d] = word.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: `attr` is as long as we say and lives through the call, and so does what it may point
    // to.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
