//! The operating system, behind one contract.
