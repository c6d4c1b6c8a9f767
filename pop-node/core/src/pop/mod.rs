//! The root machine of a POP.
