//! From a number to candidates (POP, trunk).
