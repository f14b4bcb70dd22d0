//! Masquerade and forward rules, as flannel keeps them.
