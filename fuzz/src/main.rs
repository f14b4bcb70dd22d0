//! One target under libFuzzer: the one that `WEFT_FUZZ_TARGET` names.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use weft_fuzz::Target;

fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("WEFT_FUZZ_TARGET").unwrap_or_default();
        weft_fuzz::target(&name).expect("WEFT_FUZZ_TARGET names a target")
    })
}

fuzz_target!(|input: &[u8]| (target().run)(input));
