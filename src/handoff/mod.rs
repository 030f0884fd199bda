//! The lock-free hand-off.
