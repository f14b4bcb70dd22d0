//! The packet: checked reads, writes and the helpers that change or send it.
#![expect(unsafe_code, reason = "helpers take raw pointers")]

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_CSUM_LEVEL_QUERY,
        BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_FIB_LKUP_RET_FWD_DISABLED,
        BPF_FIB_LKUP_RET_NOT_FWDED, bpf_adj_room_mode, bpf_fib_lookup as FibLookup,
        bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4, bpf_redir_neigh,
    },
    helpers::{
        bpf_check_mtu, bpf_csum_level, bpf_fib_lookup, bpf_get_hash_recalc, bpf_get_prandom_u32,
        bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_redirect, bpf_redirect_neigh,
        bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_load_bytes,
    },
    programs::TcContext,
};
use weft_common::{
    stats::{Hook, Reason},
    wire::{ETH_LEN, OVERHEAD, PROTO_UDP},
};
use zerocopy::{FromBytes, IntoBytes};

/// For this host (`PACKET_HOST`).
const PACKET_HOST: u32 = 0;
/// For another machine (`PACKET_OTHERHOST`): the stack drops it.
const PACKET_OTHERHOST: u32 = 3;
/// Address family of the next hop that `bpf_redirect_neigh` is given.
const AF_INET: u32 = 2;
/// Keeps a complete checksum of the packet right when bytes are stored.
const BPF_F_RECOMPUTE_CSUM: u64 = 1;

/// What a device says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It takes it.
    Fits,
    /// Its MTU is smaller.
    TooBig,
    /// There is no such device.
    Gone,
}

/// A packet at a hook, Ethernet header first.
pub struct Packet<'a> {
    ctx: &'a TcContext,
}

impl<'a> Packet<'a> {
    /// Wraps the context of a program.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Bytes, Ethernet header included.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.ctx.len()
    }

    /// Whether there are no bytes; the kernel hands us no such packet.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// EtherType in network order, as the kernel parsed it.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).protocol as u16 }
    }

    /// Whether a VLAN tag travels with the packet.
    #[inline(always)]
    pub fn has_vlan(&self) -> bool {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// The VLAN of the tag that travels with the packet.
    #[inline(always)]
    pub fn vlan_id(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).vlan_tci & 0xfff }
    }

    /// Payload of one segment of an aggregate; 0 for a plain packet.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).gso_size }
    }

    /// Device that the packet is at.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).ifindex }
    }

    /// Whether the link layer says it is for this host.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).pkt_type == PACKET_HOST }
    }

    /// Whether the link layer says it is for another machine. Neither this nor for this host is
    /// what goes to many, which the stack may take.
    #[inline(always)]
    pub fn is_for_another(&self) -> bool {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).pkt_type == PACKET_OTHERHOST }
    }

    /// A note that stays on the packet on its way through this host's stack.
    #[inline(always)]
    pub fn tc_index(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb()).tc_index }
    }

    /// Writes the note.
    #[inline(always)]
    pub fn set_tc_index(&self, value: u32) {
        // SAFETY: a field of the context that TC programs may write.
        unsafe { (*self.skb()).tc_index = value };
    }

    /// Takes off this host's mark.
    #[inline(always)]
    pub fn clear_mark(&self) {
        // SAFETY: a field of the context that TC programs may write.
        unsafe { (*self.skb()).mark = 0 };
    }

    /// What stands at an offset; `None` where the packet is shorter. Reads non-linear packets too.
    #[inline(always)]
    pub fn read<T: FromBytes>(&self, offset: usize) -> Option<T> {
        self.read_behind::<T, 0>(offset)
    }

    /// The same into all but the first `GAP` bytes, which become zero: they are there so that what
    /// follows them is aligned. Nothing else is zeroed before: that would be a loop of bytes.
    #[inline(always)]
    pub fn read_behind<T: FromBytes, const GAP: usize>(&self, offset: usize) -> Option<T> {
        const { assert!(GAP <= size_of::<T>()) };
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the gap and what the helper writes are the bytes of the value; it fills all of its
        // part (with zeroes where it fails), and every pattern of bytes is a value.
        unsafe {
            let start = value.as_mut_ptr().cast::<u8>();
            start.write_bytes(0, GAP);
            let answer = bpf_skb_load_bytes(
                self.skb().cast(),
                offset as u32,
                start.add(GAP).cast(),
                (size_of::<T>() - GAP) as u32,
            );
            (answer == 0).then(|| value.assume_init())
        }
    }

    /// Stores a value at an offset, keeping a complete checksum right.
    #[inline(always)]
    pub fn write<T: IntoBytes>(&self, offset: usize, value: &T) -> bool {
        self.ctx.store(offset, value, BPF_F_RECOMPUTE_CSUM).is_ok()
    }

    /// Stores a value that leaves every checksum over its place as it was.
    #[inline(always)]
    pub fn write_neutral<T: IntoBytes>(&self, offset: usize, value: &T) -> bool {
        self.ctx.store(offset, value, 0).is_ok()
    }

    /// The flow's hash, as the kernel's own tunnels use it.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { bpf_get_hash_recalc(self.skb()) }
    }

    /// Makes room for the outer headers behind the Ethernet header. Refused by the kernel for a
    /// packet that already carries a tunnel; the packet is then untouched.
    #[inline(always)]
    pub fn grow(&self) -> bool {
        let flags = u64::from(
            BPF_F_ADJ_ROOM_FIXED_GSO
                | BPF_F_ADJ_ROOM_NO_CSUM_RESET
                | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
                | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
                | BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
        ) | ((ETH_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT);
        self.ctx
            .adjust_room(OVERHEAD as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags)
            .is_ok()
    }

    /// Takes the outer headers out, leaving an Ethernet header and the inner packet.
    #[inline(always)]
    pub fn shrink(&self) -> bool {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
        let mode = bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
        if self
            .ctx
            .adjust_room(-(OVERHEAD as i32), mode, flags)
            .is_err()
        {
            return false;
        }
        // SAFETY: the context is valid for the whole program. A verification of the outer checksum
        // must not be taken for one of the inner.
        unsafe { bpf_csum_level(self.skb(), u64::from(BPF_CSUM_LEVEL_DEC)) };
        true
    }

    /// Cuts off what is behind the first `len` bytes.
    #[inline(always)]
    pub fn cut(&self, len: u32) -> bool {
        // SAFETY: the context is valid for the whole program.
        unsafe { bpf_skb_change_tail(self.skb(), len, 0) == 0 }
    }

    /// Whether the device verified the outermost checksum.
    #[inline(always)]
    pub fn is_verified(&self) -> bool {
        // SAFETY: the context is valid for the whole program.
        unsafe { bpf_csum_level(self.skb(), u64::from(BPF_CSUM_LEVEL_QUERY)) >= 0 }
    }

    /// Whether a device is there and takes the packet once it is `shift` bytes longer.
    #[inline(always)]
    pub fn fits(&self, ifindex: u32, shift: i32) -> Fit {
        let mut mtu = 0u32;
        // SAFETY: the helper writes one word.
        let answer = unsafe { bpf_check_mtu(self.skb().cast(), ifindex, &raw mut mtu, shift, 0) };
        match answer {
            0 => Fit::Fits,
            answer if answer > 0 => Fit::TooBig,
            _ => Fit::Gone,
        }
    }

    /// Whether the host would route a packet of these addresses on that came in here. What it would
    /// not, it takes in itself or throws away. Not to be asked about multicasts.
    #[inline(always)]
    pub fn is_routed_on(&self, source: [u8; 4], destination: [u8; 4]) -> bool {
        // SAFETY: a structure of integers, for which all zeroes is a value.
        let mut asked: FibLookup = unsafe { core::mem::zeroed() };
        asked.family = AF_INET as u8;
        asked.l4_protocol = PROTO_UDP;
        asked.ifindex = self.ifindex();
        asked.__bindgen_anon_3 = bpf_fib_lookup__bindgen_ty_3 {
            ipv4_src: u32::from_ne_bytes(source),
        };
        asked.__bindgen_anon_4 = bpf_fib_lookup__bindgen_ty_4 {
            ipv4_dst: u32::from_ne_bytes(destination),
        };
        // SAFETY: the helper reads and writes the structure that the size names.
        let answer = unsafe {
            bpf_fib_lookup(
                self.skb().cast(),
                &raw mut asked,
                size_of::<FibLookup>() as i32,
                0,
            )
        };
        answer != i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
            && answer != i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
    }

    /// Sends by a device to a next hop on it, which the kernel resolves.
    #[inline(always)]
    pub fn send(&self, ifindex: u32, gateway: [u8; 4]) -> i32 {
        let mut hop = bpf_redir_neigh {
            nh_family: AF_INET,
            __bindgen_anon_1: aya_ebpf::bindings::bpf_redir_neigh__bindgen_ty_1 {
                ipv6_nh: [u32::from_ne_bytes(gateway), 0, 0, 0],
            },
        };
        // SAFETY: the helper reads the structure that the size names.
        unsafe {
            bpf_redirect_neigh(
                ifindex,
                &raw mut hop,
                size_of::<bpf_redir_neigh>() as i32,
                0,
            ) as i32
        }
    }

    /// Puts the packet into the namespace at the other end of a veth port.
    #[inline(always)]
    pub fn deliver_to_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: no memory is passed.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends the packet out of a port.
    #[inline(always)]
    pub fn deliver_to_port(&self, ifindex: u32) -> i32 {
        // SAFETY: no memory is passed.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    /// Tells the development log what became of the packet, by the numbers of `stats`: names would
    /// cost more instructions than the verifier reads. Nothing without the feature `log`.
    #[inline(always)]
    pub fn log(&self, hook: Hook, reason: Reason) {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(
            self.ctx,
            "hook {} reason {} length {}",
            hook as u32,
            reason as u32,
            self.len()
        );
        #[cfg(not(feature = "log"))]
        let _ = (hook, reason);
    }

    /// Reads a kernel word at an offset from the packet's `struct sk_buff`.
    #[inline(always)]
    pub fn kernel_word_of_skb(&self, offset: u32) -> Option<u64> {
        kernel_word(self.skb() as u64 + u64::from(offset))
    }
}

/// Reads a word of kernel memory; a bad address is `None`, never a fault.
#[inline(always)]
pub fn kernel_word(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.ok()
}

/// Nanoseconds since the start of the machine.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// A number that is different for each packet.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}
