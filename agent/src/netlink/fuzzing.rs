//! The raw parser under any bytes: it must come to an end, and stay inside.

use super::raw;

/// Takes messages and their attributes apart.
pub fn take_apart(bytes: &[u8]) {
    let mut rest = bytes;
    let mut messages = 0;
    while let Some((_, _, body, behind)) = raw::message(rest) {
        assert!(behind.len() < rest.len(), "it goes on without end");
        drop(raw::outcome(body));
        let found = raw::attributes(body);
        let length: usize = found.iter().map(|(_, value)| value.len() + 4).sum();
        assert!(length <= body.len(), "attributes overlap");
        rest = behind;
        messages += 1;
    }
    assert!(messages * 16 <= bytes.len(), "messages overlap");
}
