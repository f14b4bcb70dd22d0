//! Congestion marks and DSCP, outside and inside.

use crate::{
    case::{Case, ROUND, echo, inward, out, tunnelled},
    place::{flow, tunnel},
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for tos in [0, 1, 2, 3, 0xb8, 0xe3, 0x08, 0xff] {
        let packet = echo(flow()).but(|ip| ip.tos = tos);
        cases.push(out(&format!("TOS {tos:#04x}"), &packet, ROUND));
    }
    // All sixteen, and a DSCP on both that must not mix.
    for outside in 0..4 {
        for inside in 0..4 {
            let packet = echo(flow()).but(|ip| ip.tos = 0x28 | inside);
            let tunnel = tunnel().but(|tunnel| tunnel.outer.tos = 0xb8 | outside);
            let counts = match (outside, inside) {
                (3, 0) => "B in ecn_conflict",
                _ => "B in taken; B out taken; A in taken",
            };
            let name = format!("ECN {outside} outside and {inside} inside");
            cases.push(inward(&name, &tunnel, &packet, counts));
        }
    }
    // What the kernel decapsulates itself.
    for (outside, inside) in [(3, 2), (3, 0), (1, 2)] {
        let packet = echo(flow()).but(|ip| {
            ip.tos = inside;
            ip.options = vec![1; 4];
        });
        let name = format!("ECN {outside} outside and {inside} inside, by the kernel");
        let counts = match (outside, inside) {
            (3, 0) => "B in ip_options",
            _ => "B in ip_options; B over ip_options; B to no_flow; B out taken; A in taken",
        };
        cases.push(tunnelled(&name, |t| t.outer.tos = outside, &packet, counts));
    }
    cases
}
