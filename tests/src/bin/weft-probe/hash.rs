//! Content to send, and the hash that both ends make of it.

/// Content that differs in every block, so that a lost or doubled piece shows.
#[derive(Debug)]
pub(crate) struct Content {
    state: u64,
}

impl Content {
    pub(crate) fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(crate) fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes());
        }
    }
}

/// Order matters to it, speed matters to us; nobody attacks it.
#[derive(Debug)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Both ends bring the same pieces; or other ones, of multiples of eight bytes but for the last.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0_u8; 8];
            for (to, from) in word.iter_mut().zip(piece) {
                *to = *from;
            }
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
            self.0 = mixed.rotate_left(29);
        }
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }
}
