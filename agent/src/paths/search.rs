//! The largest size that passes, between one that does and one that does not. Pure.

/// Halves what is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    passes: u32,
    fails: u32,
}

impl Search {
    pub(super) const fn new(passes: u32, fails: u32) -> Self {
        Self { passes, fails }
    }

    /// What to try next; `None` when it is found.
    pub(super) const fn next(self) -> Option<u32> {
        if self.passes + 1 >= self.fails {
            return None;
        }
        Some(self.passes.midpoint(self.fails))
    }

    pub(super) const fn note(&mut self, size: u32, passed: bool) {
        if passed {
            self.passes = size;
        } else {
            self.fails = size;
        }
    }

    /// The largest that is known to pass.
    pub(super) const fn most(self) -> u32 {
        self.passes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_width_is_found_in_few_steps(width in 576_u32..9216, more in 1_u32..60_000) {
            let mut search = Search::new(576, width + more);
            let mut steps = 0;
            while let Some(size) = search.next() {
                search.note(size, size <= width);
                steps += 1;
            }
            prop_assert_eq!(search.most(), width);
            prop_assert!(steps <= 17, "{} steps", steps);
        }
    }
}
