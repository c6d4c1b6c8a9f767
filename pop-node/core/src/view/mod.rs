//! The last control-plane snapshot plus deltas.
