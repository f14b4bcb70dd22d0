//! Entry points: call, count, answer.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod entry {
    #![allow(unsafe_code, reason = "the attributes of entry points are unsafe")]

    use aya_ebpf::{macros::classifier, programs::TcContext};
    use weft_common::stats::Hook;
    use weft_ebpf::{
        decap,
        encap::{self, Place},
        overlay,
        packet::Packet,
        record,
        verdict::{action, recorded},
    };

    #[classifier]
    pub fn from_container(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        action(
            Hook::FromContainer,
            &packet,
            encap::from_container(&packet, Place::Port),
        )
    }

    #[classifier]
    pub fn from_bridge(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        action(
            Hook::FromBridge,
            &packet,
            encap::from_container(&packet, Place::Bridge),
        )
    }

    #[classifier]
    pub fn from_uplink(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        action(Hook::FromUplink, &packet, decap::from_uplink(&packet))
    }

    #[classifier]
    pub fn from_overlay(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        action(Hook::FromOverlay, &packet, overlay::from_overlay(&packet))
    }

    #[classifier]
    pub fn to_container(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        recorded(Hook::ToContainer, &packet, record::to_container(&packet))
    }

    #[classifier]
    pub fn to_overlay(ctx: TcContext) -> i32 {
        let packet = Packet::new(&ctx);
        recorded(Hook::ToOverlay, &packet, record::to_overlay(&packet))
    }

    /// GPL-only helpers are used; the object is MIT or GPL-2.0.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    /// A panic that survives optimisation is an endless loop, which the verifier refuses.
    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
