//! How a machine gets its identity in a mesh, and keeps it fresh.
//!
//! `token` is what an operator hands over, `join` turns it into a certificate, `renew` turns a
//! certificate into the next one, `files` writes them and notices changes, `dial` connects with
//! whatever certificate is valid when a connection is made. Both shells use it.
//!
//! Deliberately not here: issuing (the control plane's), and what a configuration holds.

pub mod dial;
pub mod files;
pub mod join;
pub mod place;
pub mod renew;
pub mod token;
